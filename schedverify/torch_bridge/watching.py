"""Watches PyTorch's runtime during a step: what ran and when, and a timeout and a name for every wait.

The runtime has no hooks for sends and receives, so three functions of its module are replaced while a step runs: the
context that it puts around each action, the one that begins transfers, and the one that waits for them.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Any, Final

from schedverify.core.trace import StepSpan
from schedverify.torch_bridge.torch_internals import RuntimeHooks, replaced_hooks, runtime_hooks

_PREFIX: Final = "PP:"


class Watch:
    """The actions of one rank in one step.

    Parameters
    ----------
    timeout
        Seconds until a wait ends; None where the backend itself ends waits, and a wait with a timeout would block.
    """

    def __init__(self, rank: int, timeout: float | None) -> None:
        self.rank, self.timeout = rank, timeout
        self.ran: list[StepSpan] = []
        self._current: str | None = None
        self._begun: dict[int, tuple[str, list[int]]] = {}
        self._failed: Exception | None = None
        self._torch = runtime_hooks()

    @contextmanager
    def action(self, name: str) -> Iterator[None]:
        """Note the span of an action, whose name has the form of the runtime's profiler."""
        self._current, start = name.removeprefix(_PREFIX), time.perf_counter_ns()
        with self._torch.record(name):
            yield
        self.ran.append(StepSpan(self.rank, len(self.ran), self._current, start, time.perf_counter_ns()))
        self._current = None

    def begin(self, transfers: list[Any], desc: str | None = None) -> list[Any]:
        """Begin transfers, and note the action that began them and their peers."""
        works: list[Any] = self._torch.begin(transfers, desc)
        self._begun[id(works)] = (self._place(), [transfer.group_peer for transfer in transfers])
        return works

    def wait(self, works: list[Any]) -> None:
        """Wait for transfers that :meth:`begin` began.

        Where a wait has failed, further ones fail as it did: since torch 2.15 the runtime waits for all sends then.

        Raises
        ------
        TimedOutError
            If one does not end in time, or its peer is gone.
        """
        from schedverify.runner.p2p.waiting import Waiting, wait

        if self._failed is not None:
            raise self._failed
        what, peers = self._begun.pop(id(works))
        if self.timeout is None:
            self._torch.wait(works)
            return
        try:
            for work, peer in zip(works, peers, strict=True):
                wait(work, Waiting(self.rank, peer, f"{self._place()}, waiting for {what}"), self.timeout)
        except Exception as error:
            self._failed = error
            raise

    def watching(self) -> AbstractContextManager[None]:
        """Return a context in which the runtime's steps are watched."""
        return replaced_hooks(RuntimeHooks(self.action, self.begin, self.wait))

    def _place(self) -> str:
        return f"position {len(self.ran)} ({self._current})" if self._current else "behind the last operation"
