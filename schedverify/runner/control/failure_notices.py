"""What a rank says to the others when it fails, so that each can tell why it ends, and ends at once.

The words go over a gloo group of their own: a wait that times out closes all connections of its group. Each rank has
receives standing for what the others may have to say, and never waits for them: it looks into their buffers.
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from datetime import timedelta
from typing import Any, Final
from weakref import WeakKeyDictionary

import torch
import torch.distributed as dist

from schedverify.runner.backends import gloo_beside
from schedverify.runner.failures import TimedOutError, in_words
from schedverify.runner.p2p.messages import LAST_WORDS
from schedverify.runner.p2p.waiting import hang_up

SIZE: Final = 2048
"""Bytes of the words; longer ones are cut."""
LISTENING: Final = 0.25
"""Seconds that a rank listens where a message failed it; words go ahead of a connection's end, so they are there."""
SAYING: Final = 1.0
"""Seconds that it takes for its own words to all others together."""
_CAUSE, _CONSEQUENCE = 1, 2
"""The last byte of the words: whether the speaker failed by itself, or waited for another in vain."""


class LastWords:
    """The words of the ranks of one process group.

    Parameters
    ----------
    group
        A process group; a gloo group of its ranks is made, so every rank makes this at the same time.
    """

    def __init__(self, group: Any, timeout: float) -> None:
        self._rank = dist.get_rank(group)
        self._group = gloo_beside(group, timeout)
        others = [other for other in range(dist.get_world_size(group)) if other != self._rank]
        self._heard = {other: torch.zeros(SIZE, dtype=torch.uint8) for other in others}
        self._standing = [
            dist.irecv(buffer, group=self._group, group_src=other, tag=LAST_WORDS)
            for other, buffer in self._heard.items()
        ]

    def ended(self, error: Exception, data: Iterable[Any]) -> Exception:
        """Tell the others that this rank ends, and return the error with what others said before.

        Parameters
        ----------
        data
            The gloo groups over which others may wait for this rank; their connections are closed.
        """
        waited = isinstance(error, TimedOutError)
        told = self._listen() if waited else {}
        self._say(in_words(error), _CONSEQUENCE if waited else _CAUSE)
        for group in data:
            hang_up(group)
        if not told:
            return error
        reasons = [text if text.startswith("rank ") else f"rank {other}: {text}" for other, text in told.items()]
        return TimedOutError("\n".join([str(error), *(f"ended by {reason}" for reason in reasons)]))

    def _listen(self) -> dict[int, str]:
        """Return by rank what was said by those that failed by themselves; else by those that waited in vain."""
        deadline = time.monotonic() + LISTENING
        while not any(int(buffer[-1]) for buffer in self._heard.values()) and time.monotonic() < deadline:
            time.sleep(0.01)
        return self._said(_CAUSE) or self._said(_CONSEQUENCE)

    def _said(self, kind: int) -> dict[int, str]:
        return {other: _text(buffer) for other, buffer in self._heard.items() if int(buffer[-1]) == kind}

    def _say(self, text: str, kind: int) -> None:
        words = text.encode()[: SIZE - 1].ljust(SIZE - 1, b"\0") + bytes([kind])
        data, works = torch.frombuffer(bytearray(words), dtype=torch.uint8), []
        deadline = time.monotonic() + SAYING
        for other in self._heard:
            try:
                works.append(dist.isend(data, group=self._group, group_dst=other, tag=LAST_WORDS))
            except RuntimeError:  # it is gone
                continue
        for work in works:
            try:
                work.wait(timedelta(seconds=max(deadline - time.monotonic(), 0.01)))
            except RuntimeError:
                continue


def _text(buffer: Any) -> str:
    return bytes(buffer[:-1].tolist()).rstrip(b"\0").decode(errors="replace")


_KNOWN: WeakKeyDictionary[Any, LastWords] = WeakKeyDictionary()


def last_words_of(group: Any, timeout: float) -> LastWords:
    """Return the words of a process group's ranks, made once for each group; every rank calls it at the same time."""
    if group not in _KNOWN:
        _KNOWN[group] = LastWords(group, timeout)
    return _KNOWN[group]
