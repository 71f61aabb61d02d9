"""The means of a search: seconds, threads, bytes, the seed, and the event that ends it."""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from schedverify.core.ending import OverError
from schedverify.core.errors import Fault, InputError

MOST_WORKERS: Final = 4096
LARGEST_SEED: Final = (1 << 31) - 1
GRACE: Final = 5
"""Seconds beyond the time limit in which a first schedule is still looked for."""
MIB: Final = 1 << 20


@dataclass(frozen=True)
class Effort:
    """The means of a search; its clock runs from when it is made.

    Parameters
    ----------
    time_limit
        Seconds.
    seed
        0 to 2^31 - 1.
    workers
        Threads of the solver; None stands for as many as the machine has cores.
    memory
        Bytes that the process may hold while the solver runs; None stands for no cap.
    stop
        Set it to end the search soon and keep the best so far. Ctrl-C does the same, and sets it.
    whole
        The time limit that this is a part of.

    Raises
    ------
    InputError
        With a fault for every value that is out of range.
    """

    time_limit: float = 60
    seed: int = 0
    workers: int | None = None
    memory: int | None = None
    stop: threading.Event = field(default_factory=threading.Event, compare=False)
    whole: float | None = None
    began: float = field(default_factory=time.monotonic, init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        if faults := list(_faults(self)):
            raise InputError(faults)

    @property
    def left(self) -> float:
        """The seconds that are left; never below 0."""
        return max(0.0, self.time_limit - self.spent)

    @property
    def spent(self) -> float:
        """The seconds that it has lasted."""
        return time.monotonic() - self.began

    @property
    def threads(self) -> int:
        """The threads of the solver."""
        return self.workers or os.cpu_count() or 1

    def part(self, share: float = 1) -> Effort:
        """Return the same means with a share of the time that is left."""
        whole = self.time_limit if self.whole is None else self.whole
        return Effort(self.left * share, self.seed, self.workers, self.memory, self.stop, whole)

    @property
    def stopped(self) -> bool:
        """Whether somebody wishes the search to end."""
        return self.stop.is_set()

    @property
    def over(self) -> bool:
        """Whether nothing more should be tried."""
        return self.stopped or not self.left

    def is_over(self) -> bool:
        """Return :attr:`over`, for those that take a function."""
        return self.over

    def too_late_for_first(self, *, known: bool) -> bool:
        """Whether no first schedule should be looked for: one is ``known``, or it has taken far too long already."""
        return self.over and (known or self.stopped or self.spent > self.time_limit + GRACE)

    def check(self) -> None:
        """Raise OverError where nothing more should be tried; all that takes long calls it between two pieces."""
        if self.over:
            raise OverError

    def why_over(self) -> str:
        """Return what ended the search, in words: somebody, or the time limit that was given."""
        limit = self.time_limit if self.whole is None else self.whole
        return "the search was stopped" if self.stopped else f"the time limit of {limit:g} s ended the search"

    @property
    def exhausted(self) -> bool:
        """Whether the process holds more bytes than it may."""
        return self.memory is not None and resident() > self.memory


def resident() -> int:
    """Return the bytes of memory that this process holds."""
    import psutil

    return int(psutil.Process().memory_info().rss)


def _faults(effort: Effort) -> Iterator[Fault]:
    seconds = effort.time_limit
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds < math.inf:
        yield Fault("time_limit", f"expected a number of seconds, found {seconds!r}", "0 or more, such as 60")
    if not _whole(effort.seed, 0, LARGEST_SEED):
        yield Fault("seed", f"expected a whole number from 0 to 2^31 - 1, found {effort.seed!r}", "such as 0")
    if effort.workers is not None and not _whole(effort.workers, 1, MOST_WORKERS):
        message = f"expected a whole number from 1 to {MOST_WORKERS}, found {effort.workers!r}"
        yield Fault("workers", message, "leave it away for all cores")
    if effort.memory is not None and not _whole(effort.memory, MIB, 1 << 62):
        message = f"expected bytes, a whole number from 2^20, found {effort.memory!r}"
        yield Fault("solver_memory", message, 'such as 4 * 2**30; on the command line "4 GiB"')


def _whole(value: Any, low: int, high: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
