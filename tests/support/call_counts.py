"""Counts how often functions are called while something runs: what a test of work done asks, in place of a clock."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import FrameType, FunctionType
from typing import Any


def count_calls(task: Callable[[], object], *functions: Callable[..., Any]) -> Counter[str]:
    """Run a task and return, by name, how often each of the functions was called in this thread meanwhile."""
    names = {function.__code__: function.__name__ for function in functions if isinstance(function, FunctionType)}
    counts: Counter[str] = Counter()

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event == "call" and frame.f_code in names:
            counts[names[frame.f_code]] += 1

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        task()
    finally:
        sys.setprofile(before)
    return counts
