"""Watches PyTorch's runtime at work: what ran and when, and a limit to every wait.

The runtime has no hooks for sends and receives. While a step runs, two names of its module stand for ours: the context
that it puts around each action, and the function that waits for transfers.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, Final

from schedverify.ran import Ran

_PREFIX: Final = "PP:"


class Watch:
    """The actions of one rank in one step."""

    def __init__(self, rank: int) -> None:
        self.rank = rank
        self.ran: list[Ran] = []
        self.current: str | None = None
        """The action that has begun and not ended."""

    @property
    def position(self) -> int:
        """The position of the action that comes next, or that is under way."""
        return len(self.ran)

    @contextmanager
    def action(self, name: str) -> Iterator[None]:
        """Stand around an action, whose name has the form of the runtime's profiler."""
        self.current, start = name.removeprefix(_PREFIX), time.perf_counter_ns()
        yield
        self.ran.append(Ran(self.rank, self.position, self.current, start, time.perf_counter_ns()))
        self.current = None


@contextmanager
def watched(watch: Watch, timeout: float) -> Iterator[None]:
    """Have the runtime's steps in this context watched, and each of its waits end within ``timeout`` seconds."""
    schedules: Any = importlib.import_module("torch.distributed.pipelining.schedules")
    before = schedules.record_function, schedules._wait_batch_p2p
    schedules.record_function, schedules._wait_batch_p2p = watch.action, _waiting(timeout)
    try:
        yield
    finally:
        schedules.record_function, schedules._wait_batch_p2p = before


def _waiting(timeout: float) -> Callable[[list[Any]], None]:
    def wait(works: list[Any]) -> None:
        for work in works:
            work.wait(timedelta(seconds=timeout))

    return wait
