"""Control messages: short texts from every rank to every other, and data of bounded size from all ranks to rank 0.

Data goes as JSON: nothing that comes from another rank is ever executed, and its size is looked at before room is made
for it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any, Final, TypeVar

import torch
import torch.distributed as dist

from schedverify.runner.failures import RunError, TimedOutError
from schedverify.runner.p2p.messages import COLLECT_TAG, EXCHANGE_TAG
from schedverify.runner.p2p.waiting import Waiting, begin_transfer, wait

SIZE: Final = 4096
"""Bytes of an exchanged text; longer ones are cut, shorter ones filled up with zeros."""
MOST_COLLECTED: Final = 1 << 29
"""The most bytes that rank 0 takes from another rank."""
Received = TypeVar("Received")


def exchange(text: str, group: Any, timeout: float, *, part: str = "admission", size: int = SIZE) -> list[str]:
    """Send a text to every rank of a gloo group, and return the texts of all ranks, by rank; every rank calls it.

    Parameters
    ----------
    timeout
        Seconds in which all others must have answered.
    part
        The part of the run, for messages of errors.
    size
        The bytes of each text, the same on every rank.

    Raises
    ------
    TimedOutError
        If a rank does not come in time, or is gone; names every one that did not answer.
    """
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    others = [other for other in range(ranks) if other != rank]
    own = pack_text(text, size)
    received = {other: torch.zeros(size, dtype=torch.uint8) for other in others}
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
    return [text if other == rank else unpack_text(received[other]) for other in range(ranks)]


def exchange_data(data: Any, group: Any, timeout: float, part: str, *, most: int = MOST_COLLECTED) -> list[Any]:
    """Send what JSON holds to every rank of a gloo group, and return that of all ranks, by rank; every rank calls it.

    Parameters
    ----------
    most
        The most bytes of a rank's JSON.

    Raises
    ------
    TimedOutError
        If a rank does not come in time.
    RunError
        If a rank has more bytes to send, or sends what cannot be read; names it. Every rank ends so.
    """
    text = json.dumps(data)
    told = exchange(str(len(text)), group, timeout, part=part)
    sizes = [_read(size.encode(), whole, rank, part) for rank, size in enumerate(told)]
    for rank, size in enumerate(sizes):
        _check_length(size, most, rank, part)
    texts = exchange(text, group, timeout, part=part, size=max(sizes))
    return [_read(each.encode(), lambda read: read, rank, part) for rank, each in enumerate(texts)]


def pack_text(text: str, size: int) -> Any:
    """Return a text in UTF-8, cut or filled up with zeros: a uint8 tensor of shape ``(size,)``."""
    return torch.frombuffer(bytearray(text.encode()[:size].ljust(size, b"\0")), dtype=torch.uint8)


def unpack_text(buffer: Any) -> str:
    """Return the text in a tensor that :func:`pack_text` made."""
    return bytes(buffer.tolist()).rstrip(b"\0").decode(errors="replace")


def collect(
    data: Any, group: Any, timeout: float, part: str, read: Callable[[Any], Received], *, most: int = MOST_COLLECTED
) -> list[Received] | None:
    """Return on rank 0 what was read of the data of all ranks, by rank; None on the others. Every rank calls it.

    Parameters
    ----------
    data
        What JSON holds.
    timeout
        Seconds in which each message must come: one with the length of the JSON in bytes, and one with the JSON.
    part
        The part of the run, for messages of errors.
    read
        Takes the data of a rank, as JSON gave it, and returns it as a value, or raises a TypeError or ValueError where
        it is none.
    most
        The most bytes of a rank's JSON.

    Raises
    ------
    TimedOutError
        If a rank does not come in time.
    RunError
        If a rank has more bytes to send, or sends what cannot be read; names it.
    """
    content = json.dumps(data).encode()
    if dist.get_rank(group):
        transfer(torch.tensor([len(content)]), 0, group, timeout, part, sends=True)
        _check_length(len(content), most, dist.get_rank(group), part)
        transfer(torch.frombuffer(bytearray(content), dtype=torch.uint8), 0, group, timeout, part, sends=True)
        return None
    ranks = range(1, dist.get_world_size(group))
    contents = [content, *(_received(other, group, timeout, part, most) for other in ranks)]
    return [_read(each, read, rank, part) for rank, each in enumerate(contents)]


def transfer(tensor: Any, other: int, group: Any, timeout: float, part: str, *, sends: bool) -> None:
    """Send a tensor to another rank, or fill it with what that rank sends.

    Raises
    ------
    TimedOutError
        If the other rank does not come in time.
    """
    waiting = Waiting(dist.get_rank(group), other, part)
    wait(begin_transfer(dist.isend if sends else dist.irecv, tensor, group, COLLECT_TAG, waiting), waiting, timeout)


def _received(other: int, group: Any, timeout: float, part: str, most: int) -> bytes:
    size = torch.zeros(1, dtype=torch.int64)
    transfer(size, other, group, timeout, part, sends=False)
    _check_length(int(size), most, other, part)
    data = torch.zeros(int(size), dtype=torch.uint8)
    transfer(data, other, group, timeout, part, sends=False)
    return bytes(data.numpy())


def _check_length(length: int, most: int, rank: int, part: str) -> None:
    if not 0 < length <= most:
        raise RunError(f"rank {rank}, {part}: it sends {length} bytes, where 1 to {most} are taken")


def _read(content: bytes, read: Callable[[Any], Received], rank: int, part: str) -> Received:
    try:
        return read(json.loads(content))
    except (TypeError, ValueError, LookupError, RecursionError) as error:
        raise RunError(f"rank {rank}, {part}: what it sent cannot be read ({type(error).__name__})") from error


def whole(value: Any) -> int:
    """Return a whole number; raise a TypeError for anything else that JSON can hold."""
    if type(value) is not int:
        raise TypeError("no whole number")
    return value


def as_list(value: Any, count: int | None = None) -> list[Any]:
    """Return a list, with as many members where ``count`` says how many; raise a TypeError for anything else."""
    if not isinstance(value, list) or (count is not None and len(value) != count):
        raise TypeError("no list of so many")
    return value
