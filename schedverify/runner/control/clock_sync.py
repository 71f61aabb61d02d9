"""Asks rank 0 for the time, and brings what all ranks did to rank 0, over a gloo group."""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist

from schedverify.core.trace import RunTrace, StepSpan
from schedverify.runner.control.exchange import collect, move


class ClockAnswer(NamedTuple):
    """One question for the time: nanoseconds on the asking rank's clock, and on that of rank 0."""

    asked: int
    answered: int
    heard: int


class Reading(NamedTuple):
    """What one moment of a rank's clock is on that of rank 0, give or take ``error`` nanoseconds."""

    own: int
    true: int
    error: int


class Clock(NamedTuple):
    """A rank's clock, known at two moments; between and beside them it runs evenly."""

    first: Reading
    last: Reading

    @property
    def error(self) -> int:
        """The nanoseconds by which a time may be wrong."""
        return max(self.first.error, self.last.error)

    def true(self, own: int) -> int:
        """Return what a moment of this clock is on that of rank 0."""
        passed = self.last.own - self.first.own
        if passed <= 0:
            return own + self.first.true - self.first.own
        drift = (self.last.true - self.last.own) - (self.first.true - self.first.own)
        return own + self.first.true - self.first.own + drift * (own - self.first.own) // passed


SAME = Clock(Reading(0, 0, 0), Reading(0, 0, 0))
"""The clock of rank 0."""


def reading(answers: Iterable[ClockAnswer]) -> Reading:
    """Return what the answer that came soonest tells."""
    best = min(answers, key=lambda answer: answer.heard - answer.asked)
    passed = best.heard - best.asked
    return Reading(best.asked + passed // 2, best.answered, -(-passed // 2))


def aligned(ran: Iterable[StepSpan], clock: Clock) -> tuple[StepSpan, ...]:
    """Return steps of a rank with their times on the clock of rank 0."""
    return tuple(each._replace(start=clock.true(each.start), end=clock.true(each.end)) for each in ran)


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
