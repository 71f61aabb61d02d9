"""The one place where a rank waits for another: every wait has a timeout and a name; each handle is waited for once.

Whether a transfer over gloo is complete shows only by waiting for it, and a wait that times out closes the connection
to the peer. So a send cannot be polled: it is waited for at the end of the step, or by a thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from queue import SimpleQueue
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist

from schedverify.runner.failures import TimedOutError
from schedverify.runner.p2p.messages import UNUSED_TAG

DEFAULT_TIMEOUT: Final = 60.0
"""Seconds that a rank waits for another before it gives up."""
_SHORTEST: Final = 0.001
"""Seconds of a wait whose deadline has passed: to torch, 0 seconds mean no timeout at all."""
_LATE: Final = "imed out waiting", "Operation timed out"
"""Texts in the errors of torch's waits that timed out: of a message, of a collective."""
_CLOSED: Final = "the connection was closed after an earlier timeout"
_SOON: Final = 0.5
"""The most seconds from the closing of a connection to the end of a wait on it."""
MOST_DEFERRED_BYTES: Final = 1 << 14
"""The most bytes of sends that are waited for at the end of their step; of more than that a thread takes care."""


class Waiting(NamedTuple):
    """Who waits, where, and for whom; both are ranks within the process group of the pipeline."""

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


def begin_transfer(transfer: Callable[..., Any], tensor: Any, group: Any, tag: int, waiting: Waiting) -> Any:
    """Begin ``dist.isend`` of a tensor to the peer, or ``dist.irecv`` from it, and return its handle.

    Raises
    ------
    TimedOutError
        If the connection to the peer is gone.
    """
    whole = torch.view_as_real(tensor) if tensor.is_complex() else tensor  # as those two functions do, behind checks
    moves = group.send if transfer is dist.isend else group.recv
    return begin(partial(moves, [whole], waiting.peer, tag), waiting)


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


def close_connections(group: Any) -> None:
    """Close all connections of a gloo group, so that no rank goes on waiting for this one."""
    for peer in range(dist.get_world_size(group)):
        if peer != dist.get_rank(group):
            with suppress(RuntimeError):  # when a wait is late gloo closes every connection; a closed one is not late
                dist.irecv(torch.empty(1), group=group, group_src=peer, tag=UNUSED_TAG).wait(timedelta(milliseconds=1))


def _reason(error: str) -> str:
    """Return why a connection failed, from the text of torch's error; the first line of it where it is not known."""
    known = {
        "onnection closed by peer": "the peer is gone (it closed the connection)",
        "onnection reset by peer": "the peer is gone (the connection was reset)",
        "Application timeout caused pair closure": _CLOSED,
    }
    found = [reason for sign, reason in known.items() if sign in error]
    return found[0] if found else f"the peer is late or gone ({error.strip().splitlines()[0]})"


class Sends:
    """The unfinished sends of one step.

    While they are at most ``MOST_DEFERRED_BYTES`` together, the rank itself waits for them at the end of the step: a
    thread that wakes for each small message costs more than the message. From then on a thread waits for them, and
    frees their buffers as they leave.
    """

    def __init__(self, timeout: float) -> None:
        self.error: TimedOutError | None = None
        self._timeout = timeout
        self._deferred: list[tuple[list[Any], Waiting]] = []
        self._bytes = 0
        self._queue: SimpleQueue[tuple[list[Any], Waiting, Callable[[int], None]] | None] = SimpleQueue()
        self._thread: threading.Thread | None = None

    def add(self, works: list[Any], waiting: Waiting, size: int, ended: Callable[[int], None]) -> None:
        """Add a message that was begun to be sent, so that it is waited for.

        Parameters
        ----------
        works
            The handles of its transfers. Nothing else may refer to them from now on: with them its buffers are freed.
        size
            The bytes of its buffers, which live until it has left.
        ended
            Called with the time in nanoseconds: now, where the rank itself will wait for the message; else by the
            thread, when the message has left.
        """
        self._bytes += size
        if self._bytes <= MOST_DEFERRED_BYTES:
            self._deferred.append((works, waiting))
            ended(time.perf_counter_ns())
            return
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="schedverify sends", daemon=True)
            self._thread.start()
            for deferred in self._deferred:
                self._queue.put((*deferred, lambda _: None))
            self._deferred.clear()
        self._queue.put((works, waiting, ended))

    def finish(self) -> None:
        """Wait until every send is complete; the timeout of those that the thread has not counts from now.

        Raises
        ------
        TimedOutError
            If one of them is not in time.
        """
        began = time.monotonic()
        for works, waiting in self._deferred:
            wait_for_all(works, waiting, self._timeout, began)
        if self._thread is not None:
            self._queue.put(None)
            self._thread.join()
        self.check()

    def check(self) -> None:
        """Raise the error of a send that the thread waited for in vain."""
        if self.error is not None:
            raise self.error

    def abandon(self) -> None:
        """Have the thread end when it has waited for what was added, after a failure of the step."""
        self._queue.put(None)

    def cause(self, error: TimedOutError) -> TimedOutError:
        """Return the error of the send whose timeout closed the connections, where that is why another wait failed."""
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
