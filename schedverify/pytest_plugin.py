"""Collects schedules as tests: ``*.schedule.toml``, CSV with a problem beside it, ``[tool.schedverify]`` in pyproject.

Loaded by pytest in every run of an environment that has schedverify: it imports nothing of weight until it has found a
schedule.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from schedverify.core.result import Report
    from schedverify.linting import ScheduleCase

_PROJECT = "pyproject.toml"
_MOST_BYTES = 1 << 21


def pytest_collect_file(file_path: Path, parent: pytest.Collector) -> pytest.Collector | None:
    """Collect a file that holds a schedule and says what it is for, or a project file that names some."""
    if file_path.name == _PROJECT:
        return ProjectFile.of(parent, file_path) if _names_schedules(file_path) else None
    if not file_path.name.endswith((".schedule.toml", ".csv")):
        return None
    from schedverify.linting import is_case

    return ScheduleFile.of(parent, file_path) if is_case(file_path) else None


def pytest_configure(config: pytest.Config) -> None:
    """Have the project's own file looked at where the arguments of pytest are the usual ones."""
    project = config.rootpath / _PROJECT
    usual = config.args_source is not pytest.Config.ArgsSource.ARGS
    within = any(project.is_relative_to(Path(arg).resolve()) for arg in config.args)
    if usual and not within and project.is_file() and _names_schedules(project):
        config.args.append(str(project))


def _names_schedules(path: Path) -> bool:
    with path.open("rb") as file:
        if b"tool.schedverify" not in file.read(_MOST_BYTES):
            return False
    from schedverify.linting import is_configured

    return is_configured(path)


def _shown(path: Path, root: Path) -> Path:
    """Return the path by which pytest names a file: its parts below the root with what a terminal obeys escaped."""
    from schedverify.core.errors import printable

    return root.joinpath(*map(printable, path.relative_to(root).parts)) if path.is_relative_to(root) else path


class StrangersFile(pytest.File):
    """A file that is shown by a name that may not be its own, as a file may be called something that a terminal obeys.

    Parameters
    ----------
    file
        The file.
    """

    def __init__(self, *, file: Path, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.file = file

    @classmethod
    def of(cls, parent: pytest.Collector, file: Path) -> StrangersFile:
        """Return the node of a file."""
        node: StrangersFile = cls.from_parent(parent, path=_shown(file, parent.config.rootpath), file=file)
        return node


class ScheduleFile(StrangersFile):
    """A file with one schedule."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield the one test."""
        yield ScheduleItem.from_parent(self, name="schedule", load=self._load)

    def _load(self) -> ScheduleCase:
        from schedverify.linting import load_case

        return load_case(self.file, self.config.rootpath)


class ProjectFile(StrangersFile):
    """A project file that names schedules."""

    def collect(self) -> Iterator[pytest.Item]:
        """Yield a test for each entry."""
        from schedverify.core.errors import InputError, printable
        from schedverify.linting import configured_cases

        try:
            for name, load in configured_cases(self.file, self.config.rootpath):
                yield ScheduleItem.from_parent(self, name=printable(name), load=load)
        except InputError as error:
            raise self.CollectError(str(error)) from None


class ScheduleItem(pytest.Item):
    """The test that a schedule holds what is selected."""

    def __init__(self, *, load: Callable[[], ScheduleCase], **keywords: Any) -> None:
        super().__init__(**keywords)
        self._load = load

    def runtest(self) -> None:
        """Judge the schedule."""
        case = self._load()
        report = case.report()
        if not report.ok:
            raise BadScheduleError(case, report)

    def repr_failure(self, excinfo: pytest.ExceptionInfo[BaseException], style: Any = None) -> Any:
        """Return the violations with a picture, or the fault of the file; anything else as pytest shows it."""
        from schedverify.core.errors import SchedverifyError

        if isinstance(excinfo.value, BadScheduleError | SchedverifyError):
            return str(excinfo.value)
        return super().repr_failure(excinfo, style)

    def reportinfo(self) -> tuple[Path, int | None, str]:
        """Return where the test stands."""
        return self.path, None, f"{self.path.name}::{self.name}"


class BadScheduleError(Exception):
    """A schedule that does not hold what is selected: every violation, what stays open, and a picture."""

    def __init__(self, case: ScheduleCase, report: Report) -> None:
        from schedverify.core.errors import printable
        from schedverify.drawing import draw

        lines, rows = list[str](), dict[int | None, int](enumerate(case.lines))
        for violation in report.violations:
            line = rows.get(violation.rank)
            lines.append(f"{case.path.name}{f':{line}' if line else ''}: {violation}")
            lines += [f"    {step}" for step in violation.counterexample]
        lines += [result.rest for result in report.properties if result.more]
        lines = [printable(line) for line in [*lines, *report.unsettled]]
        picture = draw(case.subject, case.problem, report=report).text(100)
        super().__init__("\n".join([*lines, "", picture]))
