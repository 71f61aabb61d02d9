"""Clocks of several ranks as one: each rank asks rank 0 for the time, and learns its offset and drift from the answers.

With ``sent`` and ``received`` on its own clock and ``answered`` on that of rank 0, the answer was given somewhere
between the two, so the offset is known to half of the time that passed; the quickest of several answers tells most::

    this rank   sent ----------------- received     at (sent + received) / 2 its clock was answered - that moment
    rank 0              answered                    behind the clock of rank 0, give or take (received - sent) / 2

Rank 0 is asked before and after a run; the line through both readings is the offset at every moment of the run.

Source: Cristian, Probabilistic clock synchronization, Distributed Computing 3 (1989).
"""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist

from schedverify.core.trace import StepSpan
from schedverify.runner.control.exchange import transfer


class ClockAnswer(NamedTuple):
    """One question for the time: sent and received on the asking rank's clock, answered on rank 0's, in nanoseconds."""

    sent: int
    answered: int
    received: int


class Reading(NamedTuple):
    """One moment on a rank's own clock and on the reference, rank 0's, known up to ``error``; all in nanoseconds."""

    own: int
    reference: int
    error: int


class Clock(NamedTuple):
    """A rank's clock, read at two moments; between and beside them it is taken to run evenly."""

    first: Reading
    last: Reading

    @property
    def error(self) -> int:
        """The most nanoseconds by which a time on the reference may be wrong."""
        return max(self.first.error, self.last.error)

    def reference(self, own: int) -> int:
        """Return the time on the reference, in nanoseconds, of a moment on this clock."""
        first, last = self.first, self.last
        offset, passed = first.reference - first.own, last.own - first.own
        if passed <= 0:
            return own + offset
        drift = last.reference - last.own - offset
        return own + offset + drift * (own - first.own) // passed


REFERENCE_CLOCK = Clock(Reading(0, 0, 0), Reading(0, 0, 0))
"""The clock of rank 0, which is the reference."""


def best_reading(answers: Iterable[ClockAnswer]) -> Reading:
    """Return the reading by the answer that came soonest."""
    best = min(answers, key=lambda answer: answer.received - answer.sent)
    passed = best.received - best.sent
    return Reading(best.sent + passed // 2, best.answered, -(-passed // 2))


def aligned(spans: Iterable[StepSpan], clock: Clock) -> tuple[StepSpan, ...]:
    """Return spans of a rank with their times on the reference."""
    return tuple(each._replace(start=clock.reference(each.start), end=clock.reference(each.end)) for each in spans)


QUESTIONS: Final = 12
"""How often each rank asks; the answer that comes soonest counts."""
_PART: Final = "the trace of the run"


def read_clock(group: Any, timeout: float) -> Reading | None:
    """Return a reading of this rank's clock, None on rank 0; every rank of a gloo group calls it.

    Raises
    ------
    TimedOutError
        If rank 0, or a rank that asks it, does not answer in time.
    """
    rank, ranks = dist.get_rank(group), dist.get_world_size(group)
    if rank:
        return best_reading([_question(group, timeout) for _ in range(QUESTIONS)])
    for other in range(1, ranks):
        for _ in range(QUESTIONS):
            transfer(torch.zeros(1, dtype=torch.int64), other, group, timeout, _PART, sends=False)
            transfer(torch.tensor([time.perf_counter_ns()]), other, group, timeout, _PART, sends=True)
    return None


def _question(group: Any, timeout: float) -> ClockAnswer:
    answer = torch.zeros(1, dtype=torch.int64)
    sent = time.perf_counter_ns()
    transfer(torch.zeros(1, dtype=torch.int64), 0, group, timeout, _PART, sends=True)
    transfer(answer, 0, group, timeout, _PART, sends=False)
    return ClockAnswer(sent, int(answer), time.perf_counter_ns())
