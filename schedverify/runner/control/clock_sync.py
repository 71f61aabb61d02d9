"""Asks rank 0 for the time, and brings what all ranks did to rank 0, over a gloo group."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.distributed as dist

from schedverify.core.trace import RunTrace, StepSpan
from schedverify.runner.control.clocks import SAME, Clock, ClockAnswer, Reading, aligned, reading
from schedverify.runner.control.collecting import collect, move

QUESTIONS: Final = 12
"""How often each rank asks; the soonest answer counts."""
_PART: Final = "the trace of the run"


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
            move(torch.zeros(1, dtype=torch.int64), other, group, timeout, _PART, sends=False)
            move(torch.tensor([time.perf_counter_ns()]), other, group, timeout, _PART, sends=True)
    return None


def gather(
    plan: str,
    steps: Sequence[Sequence[StepSpan]],
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
    before, after = readings
    clock = Clock(before, after) if before is not None and after is not None else SAME
    mine = [[list(ran) for ran in aligned(step, clock)] for step in steps]
    texts = collect(json.dumps([clock.error, mine]), group, timeout, _PART)
    if texts is None:
        return None
    told = [json.loads(text) for text in texts]
    merged = [tuple(StepSpan(*ran) for _, theirs in told for ran in theirs[number]) for number in range(len(steps))]
    return RunTrace(plan, len(told), tuple(merged), tuple(error for error, _ in told))


def _question(group: Any, timeout: float) -> ClockAnswer:
    answer = torch.zeros(1, dtype=torch.int64)
    asked = time.perf_counter_ns()
    move(torch.zeros(1, dtype=torch.int64), 0, group, timeout, _PART, sends=True)
    move(answer, 0, group, timeout, _PART, sends=False)
    return ClockAnswer(asked, int(answer), time.perf_counter_ns())
