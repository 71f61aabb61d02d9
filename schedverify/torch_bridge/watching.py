"""Watches PyTorch's runtime at work: what ran and when, and an end and a name to every wait.

The runtime has no hooks for sends and receives. While a step runs, three names of its module stand for ours: the
context that it puts around each action, the function that begins transfers, and the one that waits for them.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from schedverify.core.trace import StepSpan

_PREFIX: Final = "PP:"


class Watch:
    """The actions of one rank in one step.

    Parameters
    ----------
    timeout
        Seconds until a wait ends; None where waits are the backend's, which blocks the process in a wait with a limit.
    """

    def __init__(self, rank: int, timeout: float | None) -> None:
        self.rank, self.timeout = rank, timeout
        self.ran: list[StepSpan] = []
        self._current: str | None = None
        self._begun: dict[int, tuple[str, list[int]]] = {}
        self._schedules: Any = importlib.import_module("torch.distributed.pipelining.schedules")
        self._record, self._begin = self._schedules.record_function, self._schedules._batch_p2p
        self._wait = self._schedules._wait_batch_p2p

    @contextmanager
    def action(self, name: str) -> Iterator[None]:
        """Stand around an action, whose name has the form of the runtime's profiler."""
        self._current, start = name.removeprefix(_PREFIX), time.perf_counter_ns()
        with self._record(name):
            yield
        self.ran.append(StepSpan(self.rank, len(self.ran), self._current, start, time.perf_counter_ns()))
        self._current = None

    def begin(self, transfers: list[Any], desc: str | None = None) -> list[Any]:
        """Begin transfers, and note what began them and with which ranks they are."""
        works: list[Any] = self._begin(transfers, desc)
        self._begun[id(works)] = (self._place(), [transfer.group_peer for transfer in transfers])
        return works

    def wait(self, works: list[Any]) -> None:
        """Wait for transfers that :meth:`begin` began.

        Raises
        ------
        TimedOutError
            If one does not end in time, or its peer is gone.
        """
        from schedverify.runner.p2p.waiting import Waiting, wait

        what, peers = self._begun.pop(id(works))
        if self.timeout is None:
            self._wait(works)
            return
        for work, peer in zip(works, peers, strict=True):
            wait(work, Waiting(self.rank, peer, f"{self._place()}, waiting for {what}"), self.timeout)

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Have the runtime's steps in this context watched."""
        schedules = self._schedules
        schedules.record_function, schedules._batch_p2p = self.action, self.begin
        schedules._wait_batch_p2p = self.wait
        try:
            yield
        finally:
            schedules.record_function, schedules._batch_p2p = self._record, self._begin
            schedules._wait_batch_p2p = self._wait

    def _place(self) -> str:
        return f"position {len(self.ran)} ({self._current})" if self._current else "behind the last operation"
