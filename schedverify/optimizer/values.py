"""What goes into a search and what comes out: hints, progress, solution."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from schedverify.core.result import Part, Status
from schedverify.core.schedule import Schedule

OpKey = tuple[str, int, int]
"""An operation as plain values: kind letter, stage, micro-batch."""

Hint = dict[OpKey, int]
"""A start tick for each operation. Where two of one rank start together, they stand in the order of the mapping."""


def hint_of(schedule: Schedule, starts: Iterable[Iterable[int]]) -> Hint:
    """Return the start of every operation of a schedule, from the starts of each rank's steps."""
    hint: Hint = {}
    for rank, ticks in enumerate(starts):
        for step, tick in zip(schedule.steps(rank), ticks, strict=True):
            for op in step.ops:
                hint[op.kind.name, op.stage, op.microbatch or 0] = int(tick)
    return hint


@dataclass(frozen=True)
class Progress:
    """How far a search is: the best value (None before the first schedule) and what is proved that none can beat."""

    seconds: float
    value: int | None
    bound: int

    @property
    def gap(self) -> Fraction | None:
        """``(value - bound) / bound``; None where the value is unknown or the bound is 0."""
        if self.value is None or not self.bound:
            return None
        return Fraction(self.value - self.bound, self.bound)


@dataclass(frozen=True)
class Solution:
    """How a search ended, and the best schedule that it found.

    Attributes
    ----------
    status
        Optimal only where ``value == bound`` is proved; infeasible only where it is proved that no order keeps the
        limits; feasible with a schedule and an open gap; unknown where neither a schedule nor a proof was found.
    schedule
        None where the status is infeasible or unknown.
    starts
        For each rank the start of every step in ticks, as early as the order allows.
    value, bound
        The objective of ``schedule``, measured on its timeline, and a number of ticks that no schedule can go below.
    evidence
        The combinatorial rule that proves most, with its place and the ``bound`` that follows from it. Where
        :attr:`bound` is higher, the rest is the solver's word.
    reason
        Why there is no schedule, or what is left open.
    parts
        What each part of the search left known, in their order.
    """

    status: Status
    schedule: Schedule | None = None
    starts: tuple[tuple[int, ...], ...] = ()
    value: int | None = None
    bound: int | None = None
    evidence: Mapping[str, Any] | None = field(default=None, hash=False)
    reason: str = ""
    parts: tuple[Part, ...] = field(default=(), compare=False)

    @property
    def gap(self) -> Fraction | None:
        """``(value - bound) / bound``; None where either is unknown or the bound is 0."""
        if self.value is None or not self.bound:
            return None
        return Fraction(self.value - self.bound, self.bound)
