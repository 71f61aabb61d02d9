"""Clocks of several ranks as one: offsets and drift from questions and answers, by arithmetic alone.

A rank asks rank 0 for the time. With ``asked`` and ``heard`` on its own clock and ``answered`` on that of rank 0, the
answer was given somewhere between the two, so the offset is known to half of what passed between them; the shortest of
several tells most. Asked before and after a run, the line between the two is the offset in it.

Source: Cristian, Probabilistic clock synchronization, Distributed Computing 3 (1989).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from schedverify.core.trace import StepSpan


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
