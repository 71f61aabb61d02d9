"""Work counted in place of time: what a test may bound on a busy machine."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any


def calls_of(function: Callable[[], Any]) -> int:
    """Return how many calls a function makes, of Python's functions and of C's, and all that they call.

    It is the same number on every machine. What grows faster than its input shows: twice the input then takes more
    than twice the calls.
    """
    count = 0

    def counting(_frame: Any, event: str, _argument: Any) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    before = sys.getprofile()
    sys.setprofile(counting)
    try:
        function()
    finally:
        sys.setprofile(before)
    return count
