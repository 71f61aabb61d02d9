"""Control messages: short texts from every rank to every other, and texts of any length from all ranks to rank 0."""

from __future__ import annotations

import time
from typing import Any, Final

import torch
import torch.distributed as dist

from schedverify.runner.failures import TimedOutError
from schedverify.runner.p2p.messages import COLLECT_TAG, EXCHANGE_TAG
from schedverify.runner.p2p.waiting import Waiting, begin_transfer, wait

SIZE: Final = 4096
"""Bytes of an exchanged text; longer ones are cut, shorter ones filled up with zeros."""


def exchange(text: str, group: Any, timeout: float, *, part: str = "admission") -> list[str]:
    """Send a text to every rank of a gloo group, and return the texts of all ranks, by rank; every rank calls it.

    Parameters
    ----------
    timeout
        Seconds in which all others must have answered.
    part
        The part of the run, for messages of errors.

    Raises
    ------
    TimedOutError
        If a rank does not come in time, or is gone; names every one that did not answer.
    """
    rank, size = dist.get_rank(group), dist.get_world_size(group)
    others = [other for other in range(size) if other != rank]
    own = pack_text(text, SIZE)
    received = {other: torch.zeros(SIZE, dtype=torch.uint8) for other in others}
    transfers = [(dist.irecv, other, received[other]) for other in others]
    transfers += [(dist.isend, other, own) for other in others]
    works = []
    for begun, other, tensor in transfers:
        waiting = Waiting(rank, other, part)
        works.append((waiting, begin_transfer(begun, tensor, group, EXCHANGE_TAG, waiting)))
    deadline, absent = time.monotonic() + timeout, dict[int, str]()
    for waiting, work in works:
        try:
            wait(work, waiting, max(deadline - time.monotonic(), 0.05))
        except TimedOutError as error:
            absent[waiting.peer] = str(error)
    if absent and time.monotonic() < deadline:
        raise TimedOutError(next(iter(absent.values())))
    if absent:
        names = ", ".join(f"rank {other}" for other in absent)
        raise TimedOutError(f"rank {rank}, {part}: no word from {names} within {timeout:g} s")
    return [text if other == rank else unpack_text(received[other]) for other in range(size)]


def pack_text(text: str, size: int) -> Any:
    """Return a text in UTF-8, cut or filled up with zeros: a uint8 tensor of shape ``(size,)``."""
    return torch.frombuffer(bytearray(text.encode()[:size].ljust(size, b"\0")), dtype=torch.uint8)


def unpack_text(buffer: Any) -> str:
    """Return the text in a tensor that :func:`pack_text` made."""
    return bytes(buffer.tolist()).rstrip(b"\0").decode(errors="replace")


def collect(text: str, group: Any, timeout: float, part: str) -> list[str] | None:
    """Return on rank 0 the texts of all ranks, by rank and of any length; None on the others. Every rank calls it.

    Parameters
    ----------
    timeout
        Seconds in which each message must come: one with the length of a text in bytes, and one with the text.
    part
        The part of the run, for messages of errors.

    Raises
    ------
    TimedOutError
        If a rank does not come in time.
    """
    if dist.get_rank(group):
        data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
        transfer(torch.tensor([len(data)]), 0, group, timeout, part, sends=True)
        transfer(data, 0, group, timeout, part, sends=True)
        return None
    return [text, *(_received(other, group, timeout, part) for other in range(1, dist.get_world_size(group)))]


def transfer(tensor: Any, other: int, group: Any, timeout: float, part: str, *, sends: bool) -> None:
    """Send a tensor to another rank, or fill it with what that rank sends.

    Raises
    ------
    TimedOutError
        If the other rank does not come in time.
    """
    waiting = Waiting(dist.get_rank(group), other, part)
    wait(begin_transfer(dist.isend if sends else dist.irecv, tensor, group, COLLECT_TAG, waiting), waiting, timeout)


def _received(other: int, group: Any, timeout: float, part: str) -> str:
    size = torch.zeros(1, dtype=torch.int64)
    transfer(size, other, group, timeout, part, sends=False)
    data = torch.zeros(int(size), dtype=torch.uint8)
    transfer(data, other, group, timeout, part, sends=False)
    return bytes(data.numpy()).decode()
