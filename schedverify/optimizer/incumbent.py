"""The best schedule so far and the highest bound, for one objective."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from schedverify.core.errors import ScheduleError
from schedverify.optimizer.orders import Rows, earliest, keeps_limits, measure, relabelled, rows_of
from schedverify.optimizer.tasks import Tasks
from schedverify.optimizer.values import OpKey, Progress


class Incumbent:
    """Keeps the best orders that were offered, what is proved, and tells of every change.

    Attributes
    ----------
    rows, value
        The best orders and their objective in true ticks; None before the first.
    bound
        True ticks that no schedule can go below.
    """

    def __init__(self, tasks: Tasks, objective: str, progress: Callable[[Progress], None] | None) -> None:
        self.tasks = tasks
        self.objective = objective
        self.rows: Rows | None = None
        self.value: int | None = None
        self.bound = 0
        self.evidence: dict[str, Any] | None = None
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
        """Keep orders that can run, keep every limit, and are better than the best."""
        try:
            value = measure(self.tasks, rows, self.objective)
        except ScheduleError:
            return
        if (self.value is None or value < self.value) and keeps_limits(self.tasks, rows):
            self.rows, self.value = rows, value
            self._tell()

    def offer_starts(self, starts: dict[OpKey, int]) -> None:
        """Keep the order of these starts if it is better than the best."""
        self.offer(rows_of(self.tasks.problem, starts))

    def raise_bound(self, bound: int) -> None:
        """Note that no schedule is below ``bound`` ticks."""
        if bound > self.bound:
            self.bound = bound
            self._tell()

    def starts(self, tasks: Tasks) -> dict[OpKey, int] | None:
        """Return scaled starts of the best as it is."""
        return None if self.rows is None else earliest(tasks, self.rows)

    def fifo_starts(self) -> dict[OpKey, int] | None:
        """Return scaled starts of the best in the form of the model: first in, first out, and B only where mixed."""
        if self.rows is None:
            return None
        rows = [[part for op in row for part in self._in_parts(op)] for row in self.rows]
        renamed = rows_of(self.tasks.problem, relabelled(self.tasks, earliest(self.tasks, rows)))
        return earliest(self.tasks, renamed)

    def _in_parts(self, op: OpKey) -> tuple[OpKey, ...]:
        kind, stage, m = op
        if kind == "B" and self.tasks.splits and stage not in self.tasks.mixed:
            return ("I", stage, m), ("W", stage, m)
        return (op,)

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(Progress(self.seconds, self.value, self.bound))
