"""Latency and bandwidth between neighbouring ranks of a process group, by messages that go there and back."""

from __future__ import annotations

import time
from typing import Any, Final

import torch
import torch.distributed as dist

from schedverify.runner.p2p.waiting import Waiting, wait

SHORT: Final = 8
"""Bytes of a message that shows the latency."""
LEAST, MOST = 1 << 20, 1 << 26
"""Bounds for the bytes of a message that shows the bandwidth."""
Pair = tuple[int, int]


def neighbours(ranks: int) -> list[Pair]:
    """Return the pairs of ranks between which a pipeline sends: around the ring, each once."""
    return [(rank, rank + 1) for rank in range(ranks - 1)] + ([(ranks - 1, 0)] if ranks > 2 else [])


def long_size(largest: int) -> int:
    """Return the bytes of the long message: those of the largest output, within bounds."""
    return min(max(largest, LEAST), MOST)


def round_trips(
    group: Any, size: int, *, rounds: int, warmup: int, timeout: float, device: Any
) -> dict[Pair, list[int]]:
    """Return half of each round trip in nanoseconds, by the pairs that begin at this rank; every rank calls it.

    One pair is at work at a time.

    Parameters
    ----------
    size
        Bytes of a message.
    timeout
        Seconds that a rank waits for another.

    Raises
    ------
    TimedOutError
        If a message does not come in time.
    """
    rank, found = dist.get_rank(group), {}
    buffer = torch.zeros(size, dtype=torch.uint8, device=device)
    for first, second in neighbours(dist.get_world_size(group)):
        dist.barrier(group)
        if rank == first:
            trips = [_there_and_back(buffer, group, rank, second, timeout) for _ in range(warmup + rounds)]
            found[first, second] = [trip // 2 for trip in trips[warmup:]]
        elif rank == second:
            for _ in range(warmup + rounds):
                _receive(buffer, group, rank, first, timeout)
                _send(buffer, group, rank, first, timeout)
    return found


def _there_and_back(buffer: Any, group: Any, rank: int, peer: int, timeout: float) -> int:
    began = time.perf_counter_ns()
    _send(buffer, group, rank, peer, timeout)
    _receive(buffer, group, rank, peer, timeout)
    return time.perf_counter_ns() - began


def _send(buffer: Any, group: Any, rank: int, peer: int, timeout: float) -> None:
    wait(dist.isend(buffer, group=group, group_dst=peer), Waiting(rank, peer, "the link"), timeout)


def _receive(buffer: Any, group: Any, rank: int, peer: int, timeout: float) -> None:
    wait(dist.irecv(buffer, group=group, group_src=peer), Waiting(rank, peer, "the link"), timeout)
    if buffer.is_cuda:
        torch.cuda.synchronize()
