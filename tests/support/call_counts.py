"""Work counted in place of time: what a test may bound on a busy machine."""

from __future__ import annotations

import sys
from collections import Counter
from collections.abc import Callable
from types import CodeType, FrameType, FunctionType
from typing import Any


def count_calls(task: Callable[[], object], *functions: Callable[..., Any]) -> Counter[str]:
    """Run a task and return, by name, how often each of the functions was called in this thread meanwhile."""
    names = {function.__code__: function.__name__ for function in functions if isinstance(function, FunctionType)}
    counts = Counter(names.get(code, "") for code in _calls(task))
    return Counter({name: count for name, count in counts.items() if name})


def calls_of(task: Callable[[], object]) -> int:
    """Return how many calls a task makes, of Python's functions and of C's, and all that they call.

    It is the same number on every machine. What grows faster than its input shows: twice the input then takes more
    than twice the calls.
    """
    return len(_calls(task))


def _calls(task: Callable[[], object]) -> list[CodeType | None]:
    """Run a task and return the code of each call of this thread meanwhile, None for C's functions."""
    calls: list[CodeType | None] = []

    def note(frame: FrameType, event: str, _argument: object) -> None:
        if event in ("call", "c_call"):
            calls.append(frame.f_code if event == "call" else None)

    before = sys.getprofile()
    sys.setprofile(note)
    try:
        task()
    finally:
        sys.setprofile(before)
    return calls
