"""Cases of one test of which the default run takes every third one; the rest is run with the slow tests."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest


def thinned(cases: Sequence[Any]) -> list[Any]:
    """Return the cases for ``pytest.mark.parametrize``, all but every third one marked as slow."""
    return [pytest.param(case, marks=pytest.mark.slow) if i % 3 else case for i, case in enumerate(cases)]
