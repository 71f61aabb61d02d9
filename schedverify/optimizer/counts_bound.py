"""Lower bounds by the count relaxation: which number of ticks is still too few, asked as often as time allows."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Final

from schedverify.optimizer.bounds import Bound
from schedverify.optimizer.counts import Counts
from schedverify.optimizer.counts_program import Program
from schedverify.optimizer.counts_proof import prove
from schedverify.problem import Problem

MOST_COLUMNS: Final = 60_000
"""The largest program that is solved; a larger one has a coarser grid."""
MOST_CLASSES: Final = 2_000


def count_bounds(
    problem: Problem,
    objective: str,
    *,
    lower: int,
    upper: int | None,
    seconds: float,
    stopped: Callable[[], bool] = lambda: False,
) -> Iterator[Bound]:
    """Yield ever higher lower bounds above ``lower``, each proved by whole weights.

    Evidence: ``{"rule": "counts", "rows": [{"row": name, "at": place, "times": [...], "weights": [...]}, ...]}``; see
    :mod:`~schedverify.optimizer.counts` for the rows and :func:`~schedverify.optimizer.counts_proof.prove` for what
    follows from them.

    Parameters
    ----------
    objective
        ``makespan`` or ``span``. The span has a bound only where all stages that nothing feeds share a rank.
    lower
        A known bound. What is known already is not proved again.
    upper
        The best known value: nothing above it is asked for. Whether it is the least is the first question.
    seconds
        After which no more is asked.
    stopped
        Asked every tenth of a second whether somebody wishes the search to end.
    """
    if problem.form != "inference" and any(len(ranks) > 1 for ranks in problem.placement):
        return  # overlapped pairs on one rank of a stage only would need rows of their own
    counts = Counts(problem, objective)
    if not counts.bounded or len(counts.classes) > MOST_CLASSES:
        return
    search = _Search(counts, objective, max(lower, counts.least), upper, time.monotonic() + seconds, stopped)
    for grid in grids(counts, search.lower if upper is None else upper):
        yield from search.on(grid)
        if search.over():
            return


def grids(counts: Counts, limit: int) -> list[int]:
    """Return the block lengths to try, in ticks, rising in precision: half of a usual duration, an eighth, a unit."""
    costs = sorted(cost for cost in counts.cost.values() if cost)
    usual = costs[len(costs) // 2] if costs else 1
    wanted = {max(counts.unit, usual // part // counts.unit * counts.unit) for part in (2, 8)} | {counts.unit}
    windows = limit * len(counts.classes)
    least = -(-windows // MOST_COLUMNS // counts.unit) * counts.unit
    return sorted({max(grid, least) for grid in wanted}, reverse=True)


class _Search:
    """What is known of the bound, and the clock."""

    def __init__(
        self,
        counts: Counts,
        objective: str,
        lower: int,
        upper: int | None,
        deadline: float,
        stopped: Callable[[], bool],
    ) -> None:
        self.counts, self.objective = counts, objective
        self.lower, self.upper = lower, upper
        self.deadline, self.stopped = deadline, stopped

    def over(self) -> bool:
        """Whether nothing more should be asked."""
        proved = self.upper is not None and self.lower >= self.upper
        return proved or self.stopped() or time.monotonic() >= self.deadline

    def on(self, grid: int) -> Iterator[Bound]:
        """Yield higher bounds from one grid, until the speed at the next number of ticks is none above 1.

        The speed falls as the ticks rise. First the best value is asked about, then the known bound; between the two,
        a straight line says where the speed passes 1, and what is found there replaces one of them.
        """
        unit = self.counts.unit
        most = None if self.upper is None else (self.upper - 1) // unit * unit
        slow: tuple[int, float] | None = None
        fast: tuple[int, float] | None = None
        limit = most if most is not None else self.lower // unit * unit
        while not self.over():
            answer = self._ask(limit, grid)
            if answer is None:
                return
            speed, bound = answer
            if bound is not None:
                self.lower = bound.value
                yield bound
                slow = limit, speed
            else:
                fast = limit, speed
            step = self._next(slow, fast)
            if step is None:
                return
            limit = step

    def _next(self, slow: tuple[int, float] | None, fast: tuple[int, float] | None) -> int | None:
        unit = self.counts.unit
        least = -(-self.lower // unit) * unit
        if fast is None:
            most = (self.upper - 1) // unit * unit if self.upper is not None else None
            ahead = int(least * (slow[1] - 1) / 2) // unit * unit if slow else 0
            return least + ahead if most is None else min(most, least + ahead)
        if fast[0] <= least:
            return None
        if slow is None or slow[1] <= 1:
            return least if fast[0] > least else None
        guess = slow[0] + (fast[0] - slow[0]) * (slow[1] - 1) / (slow[1] - fast[1])
        limit = int(guess) // unit * unit
        return min(max(limit, least), fast[0] - unit)

    def _ask(self, limit: int, grid: int) -> tuple[float, Bound | None] | None:
        """Return the least speed within a number of ticks, and the bound where that is too few; None if out of time."""
        program = Program(self.counts, limit, grid)
        solved = program.solve(self.deadline - time.monotonic(), self.stopped)
        if solved is None:
            return None
        speed, weights = solved
        rows = prove(self.counts, limit, grid, weights) if speed > 1 else None
        if rows is None:
            return speed, None
        value = limit + self.counts.unit
        evidence = {"rule": "counts", "rows": rows, "objective": self.objective, "bound": value}
        return speed, Bound(value, evidence)
