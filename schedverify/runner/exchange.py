"""Every rank tells every other a few words: one exchange, with a timeout, before anything else moves."""

from __future__ import annotations

import time
from typing import Any, Final

import torch
import torch.distributed as dist

from schedverify.runner.failures import TimedOutError
from schedverify.runner.waiting import Waiting, wait

SIZE: Final = 4096
"""Bytes of a message; longer texts are cut."""
_TAG: Final = (1 << 31) - 1
"""Above every tag of a tensor that crosses a boundary."""


def exchange(text: str, group: Any, timeout: float, *, part: str = "admission") -> list[str]:
    """Return by rank what each rank of a gloo group told, within ``timeout`` seconds for all of them together.

    Parameters
    ----------
    part
        The part of the run, for messages.

    Raises
    ------
    TimedOutError
        If a rank does not come in time; names every one that did not answer.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    others = [other for other in range(size) if other != rank]
    mine = _packed(text)
    received = {other: torch.zeros(SIZE, dtype=torch.uint8) for other in others}
    sends = {other: dist.isend(mine, group=group, group_dst=other, tag=_TAG) for other in others}
    receives = {other: dist.irecv(buffer, group=group, group_src=other, tag=_TAG) for other, buffer in received.items()}
    deadline, absent = time.monotonic() + timeout, []
    for works in (receives, sends):
        for other, work in works.items():
            left = max(deadline - time.monotonic(), 0.05)
            try:
                wait(work, Waiting(rank, other, part), left)
            except TimedOutError:
                absent.append(other)
    if absent:
        names = ", ".join(f"rank {other}" for other in sorted(set(absent)))
        raise TimedOutError(f"rank {rank}, {part}: no word from {names} within {timeout:g} s")
    return [text if other == rank else _unpacked(received[other]) for other in range(size)]


def _packed(text: str) -> Any:
    data = text.encode()[:SIZE].ljust(SIZE, b"\0")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _unpacked(buffer: Any) -> str:
    return bytes(buffer.tolist()).rstrip(b"\0").decode(errors="replace")
