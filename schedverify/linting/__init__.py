"""Schedules that stand in files to be judged: ``*.schedule.toml``, CSV with a problem beside it, entries of pyproject.

Each file says, or stands beside, what its schedule is for, so that it can be judged without further arguments: by
pytest, by pre-commit, by ``schedverify lint``. Such files come from strangers: what they name is read where it is a
regular file below the root of their repository, and nothing else is.
"""

from schedverify.linting.cases import ScheduleCase
from schedverify.linting.judging import Linted, configured_cases, is_case, is_configured, lint, load_case

__all__ = ["Linted", "ScheduleCase", "configured_cases", "is_case", "is_configured", "lint", "load_case"]
