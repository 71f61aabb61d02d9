"""The one place where a rank waits for another: every wait has a timeout and a name; each handle is waited for once.

gloo tells whether a transfer is complete only to who waits for it, and a wait that times out closes the connection to
the peer. So nobody can look whether a send is complete: it is waited for at the end of the step, or by a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from datetime import timedelta
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist

from schedverify.runner.failures import TimedOutError
from schedverify.runner.p2p.messages import NEVER

DEFAULT_TIMEOUT: Final = 60.0
"""Seconds that a rank waits for another before it gives up."""
_SHORTEST: Final = 0.001
"""Seconds of a wait whose time is up; torch takes 0 for none."""
_LATE: Final = "imed out waiting", "Operation timed out"
"""What torch says when the time of a wait is up: for a message, for a collective."""
_CLOSED: Final = "the connection was closed after an earlier timeout"
_SOON: Final = 0.5
"""Seconds that a wait takes at most to end once its connection is closed."""
FEW: Final = 1 << 14
"""The most bytes of a step's sends that may stay until its end."""


class Waiting(NamedTuple):
    """Who waits, where, and for whom; both ranks count within the process group of the pipeline."""

    rank: int
    peer: int
    what: str
    """The operation, such as ``1RECV_F0`` and its position, or the part of the run."""

    def __str__(self) -> str:
        return f"rank {self.rank}, {self.what}, peer rank {self.peer}"


def begin(transfer: Callable[[], Any], waiting: Waiting | str) -> Any:
    """Begin a transfer and return its handle.

    Raises
    ------
    TimedOutError
        If the connection to the peer is gone.
    """
    try:
        return transfer()
    except RuntimeError as error:
        raise TimedOutError(f"{waiting}: {_reason(str(error))}") from error


def wait(work: Any, waiting: Waiting | str, timeout: float) -> None:
    """Wait for a transfer, once.

    Raises
    ------
    TimedOutError
        If it is not complete within ``timeout`` seconds, or the connection to the peer is gone.
    """
    wait_for_all([work], waiting, timeout)


def wait_for_all(works: list[Any], waiting: Waiting | str, timeout: float, began: float | None = None) -> None:
    """Wait for the transfers of one message, and take each out of the list before its wait.

    Parameters
    ----------
    began
        The monotonic time from which the timeout counts; now by default.

    Raises
    ------
    TimedOutError
        If they are not all complete within ``timeout`` seconds, or the connection to the peer is gone.
    """
    deadline = (time.monotonic() if began is None else began) + timeout
    while works:
        work = works.pop(0)
        try:
            work.wait(timedelta(seconds=max(deadline - time.monotonic(), _SHORTEST)))
        except RuntimeError as error:
            late = any(sign in str(error) for sign in _LATE)
            reason = f"no end within {timeout:g} s" if late else _reason(str(error))
            raise TimedOutError(f"{waiting}: {reason}") from error


def hang_up(group: Any) -> None:
    """Close all connections of a gloo group, so that no rank goes on waiting for this one."""
    for peer in range(dist.get_world_size(group)):
        if peer != dist.get_rank(group):
            try:
                dist.irecv(torch.empty(1), group=group, group_src=peer, tag=NEVER).wait(timedelta(milliseconds=1))
            except RuntimeError:  # when a wait is late gloo closes every connection; one that is closed is not late
                continue


def _reason(words: str) -> str:
    """Return in our words what torch says of a connection that failed; its own first line where they are not known."""
    known = {
        "onnection closed by peer": "the peer is gone (it closed the connection)",
        "onnection reset by peer": "the peer is gone (the connection was reset)",
        "Application timeout caused pair closure": _CLOSED,
    }
    told = [text for sign, text in known.items() if sign in words]
    return told[0] if told else f"the peer is late or gone ({words.strip().splitlines()[0]})"


class Sends:
    """The sends that are under way in one step.

    The rank waits for them itself at the end of the step while they are few: a thread that wakes for each small message
    costs more than the message. Once they amount to much, a thread waits, and frees their buffers as they leave.
    """

    def __init__(self, timeout: float) -> None:
        self.error: TimedOutError | None = None
        self._timeout = timeout
        self._few: list[tuple[list[Any], Waiting]] = []
        self._bytes = 0
        self._queue: SimpleQueue[tuple[list[Any], Waiting, Callable[[int], None]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, works: list[Any], waiting: Waiting, size: int, ended: Callable[[int], None]) -> None:
        """Have the works waited for.

        Nothing else may hold ``works`` then: with the last of them the buffers are freed.

        Parameters
        ----------
        size
            The bytes that are held until the message has left.
        ended
            Is called with the time in nanoseconds: at once for what the rank waits for itself, else, by the thread,
            when the message has left.
        """
        self._bytes += size
        if self._bytes <= FEW:
            self._few.append((works, waiting))
            ended(time.perf_counter_ns())
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="schedverify sends", daemon=True)
            self._thread.start()
            for few in self._few:
                self._queue.put((*few, lambda _: None))
            self._few.clear()
        self._queue.put((works, waiting, ended))

    def finish(self) -> None:
        """Wait until every send is complete; for those that the rank waits for itself the time counts from now.

        Raises
        ------
        TimedOutError
            If one of them is not in time.
        """
        began = time.monotonic()
        for works, waiting in self._few:
            wait_for_all(works, waiting, self._timeout, began)
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

    def cause(self, error: TimedOutError) -> TimedOutError:
        """Return the error of the send that was late, where another wait failed because that closed the connections."""
        if self._thread is None or not str(error).endswith(_CLOSED):
            return error
        self._thread.join(_SOON)
        return self.error or error

    def _serve(self) -> None:
        while (item := self._queue.get()) is not None:
            works, waiting, ended = item
            try:
                wait_for_all(works, waiting, self._timeout)
            except TimedOutError as error:
                self.error = error
                return
            ended(time.perf_counter_ns())
            del item, works, ended
