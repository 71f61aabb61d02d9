"""Asks rank 0 for the time, and brings what all ranks did to rank 0, over a gloo group."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.distributed as dist

from schedverify.clocks import SAME, Answer, Clock, Reading, aligned, reading
from schedverify.ran import Ran, RunTrace
from schedverify.runner.waiting import Waiting, wait

QUESTIONS: Final = 12
"""How often each rank asks; the soonest answer counts."""
_TAG: Final = (1 << 31) - 3
"""Above every tag of a tensor that crosses a boundary; these messages go in order on each pair of ranks."""


def ask(group: Any, timeout: float) -> Reading | None:
    """Return what this rank's clock is on that of rank 0, None on rank 0; every rank of the group calls it.

    Raises
    ------
    TimedOutError
        If rank 0, or a rank that asks it, does not answer in time.
    """
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    if rank:
        return reading([_question(group, timeout) for _ in range(QUESTIONS)])
    for other in range(1, ranks):
        for _ in range(QUESTIONS):
            _move(torch.zeros(1, dtype=torch.int64), False, other, group, timeout)
            _move(torch.tensor([time.perf_counter_ns()]), True, other, group, timeout)
    return None


def gather(
    plan: str,
    steps: Sequence[Sequence[Ran]],
    readings: tuple[Reading | None, Reading | None],
    group: Any,
    timeout: float,
) -> RunTrace | None:
    """Return on rank 0 what all ranks did, on one clock; None on the others. Every rank of the group calls it.

    Parameters
    ----------
    plan
        The digest of the plan.
    steps
        What this rank did, by step of training.
    readings
        What :func:`ask` gave before the first of them and after the last.

    Raises
    ------
    TimedOutError
        If a rank does not come in time.
    """
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    before, after = readings
    clock = Clock(before, after) if before is not None and after is not None else SAME
    mine = [[list(ran) for ran in aligned(step, clock)] for step in steps]
    if rank:
        _send(json.dumps([clock.error, mine]), group, timeout)
        return None
    told = [[0, mine], *(json.loads(_receive(other, group, timeout)) for other in range(1, ranks))]
    merged = [tuple(Ran(*ran) for _, theirs in told for ran in theirs[number]) for number in range(len(steps))]
    return RunTrace(plan, ranks, tuple(merged), tuple(error for error, _ in told))


def _question(group: Any, timeout: float) -> Answer:
    answer = torch.zeros(1, dtype=torch.int64)
    asked = time.perf_counter_ns()
    _move(torch.zeros(1, dtype=torch.int64), True, 0, group, timeout)
    _move(answer, False, 0, group, timeout)
    return Answer(asked, int(answer), time.perf_counter_ns())


def _send(text: str, group: Any, timeout: float) -> None:
    data = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8)
    _move(torch.tensor([len(data)]), True, 0, group, timeout)
    _move(data, True, 0, group, timeout)


def _receive(other: int, group: Any, timeout: float) -> str:
    size = torch.zeros(1, dtype=torch.int64)
    _move(size, False, other, group, timeout)
    data = torch.zeros(int(size), dtype=torch.uint8)
    _move(data, False, other, group, timeout)
    return bytes(data.numpy()).decode()


def _move(tensor: Any, sends: bool, other: int, group: Any, timeout: float) -> None:
    rank = dist.get_rank(group)
    begun = (
        dist.isend(tensor, group=group, group_dst=other, tag=_TAG)
        if sends
        else dist.irecv(tensor, group=group, group_src=other, tag=_TAG)
    )
    wait(begun, Waiting(rank, other, "the trace of the run"), timeout)
