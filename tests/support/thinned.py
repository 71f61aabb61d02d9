"""Cases of one test of which the default run takes some; the rest is run with the slow tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def thinned(cases: Sequence[Any], every: int = 3) -> list[Any]:
    """Return the cases for ``pytest.mark.parametrize``, all but every third one, say, marked as slow."""
    return [pytest.param(case, marks=pytest.mark.slow) if i % every else case for i, case in enumerate(cases)]
