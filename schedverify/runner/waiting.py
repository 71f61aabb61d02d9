"""The one place where a rank waits for another: every wait has a timeout and a name; each handle is waited for once.

gloo tells whether a transfer is complete only to who waits for it, and a wait that times out closes the connection to
the peer. So sends are waited for by a thread, in the order in which they were begun, and their buffers freed there.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

from schedverify.runner.failures import TimedOutError

DEFAULT_TIMEOUT: Final = 60.0
"""Seconds that a rank waits for another before it gives up."""


class Waiting(NamedTuple):
    """Who waits, where, and for whom; both ranks count within the process group of the pipeline."""

    rank: int
    peer: int
    what: str
    """The operation, such as ``1RECV_F0`` and its position, or the part of the run."""

    def __str__(self) -> str:
        return f"rank {self.rank}, {self.what}, peer rank {self.peer}"


def wait(work: Any, waiting: Waiting, timeout: float) -> None:
    """Wait for a transfer, once.

    Raises
    ------
    TimedOutError
        If it is not complete within ``timeout`` seconds, or the connection to the peer is gone.
    """
    try:
        work.wait(timedelta(seconds=timeout))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[0]
        raise TimedOutError(f"{waiting}: no end within {timeout:g} s, or the peer is gone ({reason})") from error


class Sends:
    """The sends that are under way in one step, waited for by a thread that ends with the step."""

    def __init__(self, timeout: float) -> None:
        self.error: TimedOutError | None = None
        self._timeout = timeout
        self._queue: SimpleQueue[tuple[list[Any], Waiting, Callable[[int], None]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, works: list[Any], waiting: Waiting, ended: Callable[[int], None]) -> None:
        """Have the works waited for; ``ended`` is called, by the thread, with the time in nanoseconds.

        Nothing else may hold ``works`` then: with the last of them the buffers are freed.
        """
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="schedverify sends", daemon=True)
            self._thread.start()
        self._queue.put((works, waiting, ended))

    def finish(self) -> None:
        """Wait until every send is complete.

        Raises
        ------
        TimedOutError
            If one of them is not in time.
        """
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        self.check()

    def check(self) -> None:
        """Raise the error of a send that failed, where there is one."""
        if self.error is not None:
            raise self.error

    def abandon(self) -> None:
        """Let the thread end by itself, after a failure."""
        self._queue.put(None)

    def _serve(self) -> None:
        while (item := self._queue.get()) is not None:
            works, waiting, ended = item
            try:
                while works:
                    wait(works.pop(0), waiting, self._timeout)
            except TimedOutError as error:
                self.error = error
                return
            ended(time.perf_counter_ns())
            del item, works, ended
