"""Failure notices: what a rank that fails sends to the others, so that each ends at once and can say why.

Notices go over a gloo group of their own, since a wait that times out closes all connections of its group. Each rank
has posted receives for the notices of the others from the beginning on, and never waits for them: it looks into their
buffers. A notice is one message of ``SIZE`` bytes::

    the text in UTF-8, cut or filled up with zeros to SIZE - 1 bytes | 1: cause, 2: consequence
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import suppress
from datetime import timedelta
from functools import partial
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

from schedverify.runner.backends import gloo_beside
from schedverify.runner.control.exchange import pack_text, unpack_text
from schedverify.runner.failures import TimedOutError, error_text
from schedverify.runner.p2p.messages import NOTICE_TAG
from schedverify.runner.p2p.waiting import close_connections

SIZE: Final = 2048
"""Bytes of a notice; longer texts are cut."""
LISTEN_SECONDS: Final = 0.25
"""Seconds that a rank whose wait failed looks for notices; a notice is sent before its connection is closed."""
SEND_SECONDS: Final = 1.0
"""Seconds in which a rank's own notice is sent to all others together."""
_CAUSE, _CONSEQUENCE = 1, 2
"""The last byte of a notice: whether its rank failed by itself, or waited in vain for another."""


class FailureNotices:
    """The failure notices of the ranks of one process group.

    Parameters
    ----------
    group
        A process group; a gloo group of its ranks is made, so every rank makes this at the same time.
    timeout
        Seconds that the other ranks are waited for meanwhile.
    """

    def __init__(self, group: Any, timeout: float) -> None:
        self._rank = dist.get_rank(group)
        self._group = gloo_beside(group, timeout)
        others = [other for other in range(dist.get_world_size(group)) if other != self._rank]
        self._buffers = {other: torch.zeros(SIZE, dtype=torch.uint8) for other in others}
        receive = partial(dist.irecv, group=self._group, tag=NOTICE_TAG)
        self._receives = [receive(buffer, group_src=other) for other, buffer in self._buffers.items()]

    def report(self, error: Exception, data: Iterable[Any]) -> Exception:
        """Send a notice of this rank's failure, and return the error with the notices that came before.

        Parameters
        ----------
        data
            The gloo groups over which others may wait for this rank; their connections are closed.
        """
        waited = isinstance(error, TimedOutError)
        notices = self._listen() if waited else {}
        self._send(error_text(error), _CONSEQUENCE if waited else _CAUSE)
        for group in data:
            close_connections(group)
        if not notices:
            return error
        reasons = [text if text.startswith("rank ") else f"rank {other}: {text}" for other, text in notices.items()]
        return TimedOutError("\n".join([str(error), *(f"ended by {reason}" for reason in reasons)]))

    def _listen(self) -> dict[int, str]:
        """Return by rank the notices of ranks that failed by themselves; without any, of those that waited in vain."""
        deadline = time.monotonic() + LISTEN_SECONDS
        while not any(int(buffer[-1]) for buffer in self._buffers.values()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return self._notices(_CAUSE) or self._notices(_CONSEQUENCE)

    def _notices(self, kind: int) -> dict[int, str]:
        return {other: unpack_text(buffer[:-1]) for other, buffer in self._buffers.items() if int(buffer[-1]) == kind}

    def _send(self, text: str, kind: int) -> None:
        notice, works = torch.cat([pack_text(text, SIZE - 1), torch.tensor([kind], dtype=torch.uint8)]), []
        deadline = time.monotonic() + SEND_SECONDS
        for other in self._buffers:
            with suppress(RuntimeError):  # it is gone
                works.append(dist.isend(notice, group=self._group, group_dst=other, tag=NOTICE_TAG))
        for work in works:
            with suppress(RuntimeError):
                work.wait(timedelta(seconds=max(deadline - time.monotonic(), 0.01)))


_BY_GROUP: WeakKeyDictionary[Any, FailureNotices] = WeakKeyDictionary()


def failure_notices_of(group: Any, timeout: float) -> FailureNotices:
    """Return the notices of a process group, made once for each group; every rank calls it at the same time."""
    if group not in _BY_GROUP:
        _BY_GROUP[group] = FailureNotices(group, timeout)
    return _BY_GROUP[group]
