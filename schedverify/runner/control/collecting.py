"""Brings what every rank has to tell to rank 0, over a gloo group."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist

from schedverify.runner.p2p.waiting import Waiting, begin, wait
from schedverify.runner.tags import COLLECTED


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
