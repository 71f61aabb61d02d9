"""The best orders that a search has so far, what is proved, and how it tells of both."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

from schedverify.core.errors import ScheduleError
from schedverify.core.plan import relative_gap
from schedverify.optimizer.bounds.formulas import Bound
from schedverify.optimizer.orders import (
    Peaks,
    Rows,
    earliest,
    measure,
    peaks_within_limits,
    relabelled,
    rows_of,
)
from schedverify.optimizer.tasks import OpKey, Tasks


@dataclass(frozen=True)
class Progress:
    """How far a search is: the best value (None before the first schedule) and what is proved that none can beat.

    ``part`` names what runs now.
    """

    seconds: float
    value: int | None
    bound: int
    part: str = ""

    @property
    def gap(self) -> Fraction | None:
        """``(value - bound) / bound``; None where the value is unknown or the bound is 0."""
        return relative_gap(self.value, self.bound)


OnProgress = Callable[[Progress], None]
"""Is called with every better value and every higher bound, and where another part of the search begins."""


class Incumbent:
    """The best orders that were offered and the highest bound, for the objective of the tasks; reports every change.

    Attributes
    ----------
    rows, value, peaks
        The best orders, their objective in true ticks, and what their ranks hold; None before the first.
    starts
        The scaled starts of the best orders, as early as they allow.
    bound
        True ticks that no schedule can go below.
    evidence
        The combinatorial rule that proves most, as in :class:`Solution`; None before the first.
    part
        What runs now.
    """

    def __init__(self, tasks: Tasks, progress: OnProgress | None) -> None:
        self.tasks = tasks
        self.rows: Rows | None = None
        self.starts: dict[OpKey, int] = {}
        self.value: int | None = None
        self.peaks: Peaks | None = None
        self.bound = 0
        self.evidence: dict[str, Any] | None = None
        self.part = ""
        self._progress = progress
        self._began = time.monotonic()

    @property
    def proved(self) -> bool:
        """Whether the best is as good as can be."""
        return self.value is not None and self.value <= self.bound

    @property
    def seconds(self) -> float:
        """How long the search has been going on."""
        return time.monotonic() - self._began

    def offer(self, rows: Rows) -> None:
        """Keep orders that can run, keep every limit, and are better than the best, or as good with less memory."""
        try:
            starts, best = earliest(self.tasks, rows), self.value
            value = measure(self.tasks, rows, starts)
        except ScheduleError:
            return
        if best is not None and value > best:
            return
        peaks = peaks_within_limits(self.tasks, rows, starts)
        if peaks is None or (value == best and self.peaks is not None and peaks >= self.peaks):
            return
        self.rows, self.value, self.peaks, self.starts = rows, value, peaks, starts
        if value != best:
            self._report()

    def offer_starts(self, starts: dict[OpKey, int]) -> None:
        """Keep the order of these starts if it is better than the best."""
        self.offer(rows_of(self.tasks.problem, starts))

    def prove(self, bound: Bound) -> None:
        """Note what a combinatorial rule proves."""
        self.evidence = bound.evidence
        self.raise_bound(bound.value)

    def raise_bound(self, bound: int) -> None:
        """Note that no schedule is below ``bound`` ticks."""
        if bound > self.bound:
            self.bound = bound
            self._report()

    def fifo_rows(self) -> Rows | None:
        """Return the best in the form of the model: first in, first out, and B only where mixed."""
        if self.rows is None:
            return None
        rows = [[part for op in row for part in self._in_parts(op)] for row in self.rows]
        return rows_of(self.tasks.problem, relabelled(self.tasks, earliest(self.tasks, rows)))

    def _in_parts(self, op: OpKey) -> tuple[OpKey, ...]:
        kind, stage, m = op
        apart = kind == "B" and self.tasks.splits and stage not in self.tasks.mixed
        return (("I", stage, m), ("W", stage, m)) if apart else (op,)

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(Progress(self.seconds, self.value, self.bound, self.part))

    def begin(self, part: str) -> None:
        """Tell that another part of the search begins."""
        self.part = part
        self._report()
