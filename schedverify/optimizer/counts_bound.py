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
WORTH_ASKING: Final = 0.99
"""A finer grid is asked about the best value at once where the coarser one came to at least this speed there."""


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


class _Bracket:
    """Two numbers of ticks between which the least speed passes 1: it falls as the ticks rise, about as 1 / ticks."""

    def __init__(self, top: int | None) -> None:
        self.top = top
        self.slow: tuple[int, float] | None = None
        self.fast: tuple[int, float] | None = None

    def note(self, limit: int, speed: float, *, ruled_out: bool) -> None:
        """Take an answer. Where the same end is replaced twice, the other one counts half (the Illinois rule)."""
        if ruled_out:
            self.slow = limit, max(speed - 1, 0)
            return
        if self.fast and self.slow:
            self.slow = self.slow[0], self.slow[1] / 2
        self.fast = limit, min(speed - 1, 0)

    def next(self, least: int, unit: int) -> int | None:
        """Return which number of ticks to ask about, of those from ``least`` on; None where none is left."""
        most = self.fast[0] - unit if self.fast else self.top
        if most is not None and most < least:
            return None
        if self.slow is None:
            return least
        begin, excess = self.slow
        guess = begin * (1 + excess)
        if self.fast and excess > self.fast[1]:
            guess = begin + (self.fast[0] - begin) * excess / (excess - self.fast[1])
        limit = max(int(guess) // unit * unit, least)
        return limit if most is None else min(limit, most)


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
        self._top_speed = 1.0

    def over(self) -> bool:
        """Whether nothing more should be asked."""
        proved = self.upper is not None and self.lower >= self.upper
        return proved or self.stopped() or time.monotonic() >= self.deadline

    def on(self, grid: int) -> Iterator[Bound]:
        """Yield higher bounds from one grid, until the next number of ticks is none that it can rule out.

        The first question is the best value, unless a coarser grid was far from it: is anything better possible? Then
        come the known bound and what the answers point to.
        """
        unit = self.counts.unit
        top = None if self.upper is None else (self.upper - 1) // unit * unit
        least = -(-self.lower // unit) * unit
        bracket = _Bracket(top)
        limit: int | None = least if top is None or self._top_speed < WORTH_ASKING else top
        while limit is not None and not self.over():
            answer = self._ask(limit, grid)
            if answer is None:
                return
            speed, bound = answer
            if limit == top:
                self._top_speed = speed
            if bound is not None:
                self.lower = bound.value
                yield bound
            bracket.note(limit, speed, ruled_out=bound is not None)
            limit = bracket.next(-(-self.lower // unit) * unit, unit)

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
