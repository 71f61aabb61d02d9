"""Every rank tells every other a few words: one exchange, with a timeout, before anything else moves."""

from __future__ import annotations

import time
from functools import partial
from typing import Any, Final

import torch
import torch.distributed as dist

from schedverify.runner.failures import TimedOutError
from schedverify.runner.p2p.messages import COLLECTED, EXCHANGED
from schedverify.runner.p2p.waiting import Waiting, begin, wait

SIZE: Final = 4096
"""Bytes of a message; longer texts are cut."""


def exchange(text: str, group: Any, timeout: float, *, part: str = "admission") -> list[str]:
    """Return by rank what each rank of a gloo group told, within ``timeout`` seconds for all of them together.

    Parameters
    ----------
    part
        The part of the run, for messages.

    Raises
    ------
    TimedOutError
        If a rank does not come in time, or is gone; names every one that did not answer.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    others = [other for other in range(size) if other != rank]
    mine = _packed(text)
    received = {other: torch.zeros(SIZE, dtype=torch.uint8) for other in others}
    places = {other: Waiting(rank, other, part) for other in others}
    sends = [partial(dist.isend, mine, group=group, group_dst=other, tag=EXCHANGED) for other in others]
    receives = [
        partial(dist.irecv, buffer, group=group, group_src=other, tag=EXCHANGED) for other, buffer in received.items()
    ]
    works = [(other, begin(each, places[other])) for each, other in zip([*receives, *sends], others * 2, strict=True)]
    deadline, absent = time.monotonic() + timeout, dict[int, str]()
    for other, work in works:
        try:
            wait(work, places[other], max(deadline - time.monotonic(), 0.05))
        except TimedOutError as error:
            absent[other] = str(error)
    if absent and time.monotonic() < deadline:
        raise TimedOutError(next(iter(absent.values())))
    if absent:
        names = ", ".join(f"rank {other}" for other in absent)
        raise TimedOutError(f"rank {rank}, {part}: no word from {names} within {timeout:g} s")
    return [text if other == rank else _unpacked(received[other]) for other in range(size)]


def _packed(text: str) -> Any:
    data = text.encode()[:SIZE].ljust(SIZE, b"\0")
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


def _unpacked(buffer: Any) -> str:
    return bytes(buffer.tolist()).rstrip(b"\0").decode(errors="replace")


def collect(text: str, group: Any, timeout: float, part: str) -> list[str] | None:
    """Return on rank 0 the texts of all ranks by rank, however long; None on the others. Every rank calls it.

    Parameters
    ----------
    part
        The part of the run, for messages.

    Raises
    ------
    TimedOutError
        If a rank does not come in time.
    """
    if dist.get_rank(group):
        data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        move(torch.tensor([len(data)]), 0, group, timeout, part, sends=True)
        move(data, 0, group, timeout, part, sends=True)
        return None
    return [text, *(_received(other, group, timeout, part) for other in range(1, dist.get_world_size(group)))]


def move(tensor: Any, other: int, group: Any, timeout: float, part: str, *, sends: bool) -> None:
    """Send a tensor to another rank, or fill it with what that rank sends.

    Raises
    ------
    TimedOutError
        If the other rank does not come in time.
    """
    waiting = Waiting(dist.get_rank(group), other, part)
    if sends:
        work = begin(lambda: dist.isend(tensor, group=group, group_dst=other, tag=COLLECTED), waiting)
    else:
        work = begin(lambda: dist.irecv(tensor, group=group, group_src=other, tag=COLLECTED), waiting)
    wait(work, waiting, timeout)


def _received(other: int, group: Any, timeout: float, part: str) -> str:
    size = torch.zeros(1, dtype=torch.int64)
    move(size, other, group, timeout, part, sends=False)
    data = torch.zeros(int(size), dtype=torch.uint8)
    move(data, other, group, timeout, part, sends=False)
    return bytes(data.numpy()).decode()
