"""Numbers that stay as they are in an example that shrinks, whatever else there is less of in it."""

from __future__ import annotations

from hashlib import sha256
from typing import Final

from hypothesis import strategies as st

_MOST: Final = 255


class DrawnChoices:
    """DrawnChoices drawn one after another until one of them says that all others are the first there is.

    So an example has no more of them than it needs, and those that it keeps stay in their places, and with them what is
    drawn later, while a problem shrinks to fewer ranks or micro-batches, of which fewer choices would be made.
    """

    def __init__(self, draw: st.DrawFn) -> None:
        self._draw = draw
        self._ended = False

    def among(self, count: int) -> int:
        """Return a number from 0 to below ``count``."""
        if self._ended or count < 2:
            return 0
        number = self._draw(st.integers(0, max(count, _MOST)))
        self._ended = number == 0
        return (number - 1) % count if number else 0


def number_for(drawn: int, text: str) -> int:
    """Return a number for a text that follows from a drawn one, as if it had been drawn for this text alone.

    So what hangs on it stays the same in an example that shrinks, whatever else there is in it.
    """
    return int.from_bytes(sha256(f"{drawn} {text}".encode()).digest()[:8])
