"""How long work is ended from without: it asks between two of its pieces, and what it has so far is kept.

Whoever starts the work hands a check down to it, such as one that looks at a clock and at a wish to stop, and catches
:class:`OverError`.

Work that others may call on its own takes :func:`go_on` by default, which lets it come to its end.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")
Check = Callable[[], None]
"""Called between two pieces of long work; raises OverError where the work should end."""


class OverError(Exception):
    """The time is up, or somebody wishes the work to end; caught by whoever has the best so far."""


def go_on() -> None:
    """Be the check of work that nobody ends."""


def checked(items: Iterable[T], check: Check) -> Iterator[T]:
    """Yield the items, with a check before each."""
    for item in items:
        check()
        yield item
