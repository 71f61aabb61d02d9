"""Lower bounds by the count relaxation: which number of ticks is still too few, asked as often as time allows.

An answer is a set of weights on the rows, which are rounded and proved in whole numbers; nothing rests on the solver.
"""

from __future__ import annotations

import operator
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from schedverify.core.ending import OverError
from schedverify.core.problem import Problem
from schedverify.optimizer.bounds.formulas import Bound
from schedverify.optimizer.counts.program import CountsProgram, RowWeights, Ticks
from schedverify.optimizer.counts.relaxation import CountRow, Counts, OpClass

MOST_COLUMNS: Final = 60_000
"""The largest program that is solved, about; a larger one has a coarser grid."""
MOST_CLASSES: Final = 2_000
GRIDS: Final = ((2.0, 0.0), (0.5, 0.93), (0.125, 0.985), (0.0, 0.985))
"""Block lengths by a usual duration, at last a unit; each is asked about the best value at once only where the grid
before came to at least this speed there, since a finer grid gains no more than a few percent."""
COARSE: Final = 100
"""All grids but the last leave a bound alone that is within one part in so many of what they can prove."""
ROUGH: Final = 1e-4
EXACT: Final = 1e-8
"""How exactly the programs are solved: first roughly, and again where that leaves open what matters."""
CLEARLY_ENOUGH: Final = 0.99
"""A speed below this, roughly, is below 1."""


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
    :mod:`~schedverify.optimizer.counts.relaxation` for the rows and :func:`~schedverify.optimizer.counts.bound.prove`
    for what follows from them.

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
    search = _CountSearch(counts, objective, max(lower, counts.least), upper, time.monotonic() + seconds, stopped)
    levels = grids(counts, search.lower if upper is None else upper)
    for grid, hopeful in levels.items():
        yield from search.on(grid, hopeful, last=grid == min(levels))
        if search.over():
            return


def grids(counts: Counts, limit: int) -> dict[int, float]:
    """Return the block lengths to try, in ticks, the longest first, with the speeds of :data:`GRIDS`."""
    costs = sorted(cost for cost in counts.cost.values() if cost)
    usual = costs[len(costs) // 2] if costs else 1
    least = -(-limit * len(counts.classes) // MOST_COLUMNS // counts.unit) * counts.unit
    levels: dict[int, float] = {}
    for share, hopeful in GRIDS:
        levels.setdefault(max(int(usual * share) // counts.unit * counts.unit, least, counts.unit), hopeful)
    return levels


class _SpeedBracket:
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

    def next(self, least: int, step: int, unit: int) -> int | None:
        """Return which number of ticks to ask about, from ``least`` on; None where less than ``step`` is left."""
        most = self.fast[0] - unit if self.fast else self.top
        if most is not None and most - least + unit < step:
            return None
        if self.slow is None:
            return least
        begin, excess = self.slow
        guess = begin * (1 + excess)
        if self.fast and excess > self.fast[1]:
            guess = begin + (self.fast[0] - begin) * excess / (excess - self.fast[1])
        limit = max(int(guess) // unit * unit, least)
        return limit if most is None else min(limit, most)


@dataclass
class _CountSearch:
    """The bound that is proved so far, and the clock."""

    counts: Counts
    objective: str
    lower: int
    upper: int | None
    deadline: float
    stopped: Callable[[], bool]
    _top_speed: float = 1.0
    _left_open: int = 0

    def over(self) -> bool:
        """Whether nothing more should be asked."""
        proved = self.upper is not None and self.lower >= self.upper
        return proved or self.stopped() or time.monotonic() >= self.deadline

    def on(self, grid: int, hopeful: float, *, last: bool) -> Iterator[Bound]:
        """Yield higher bounds from one grid, until it can rule out no more ticks.

        The first question is whether anything better than the best value is possible, unless a coarser grid came out
        too far from it; else what that one could not rule out. Only the last grid is asked for the last tick.
        """
        unit = self.counts.unit
        top = None if self.upper is None else (self.upper - 1) // unit * unit
        step = unit if last else max(unit, self.lower // COARSE)
        bracket = _SpeedBracket(top)
        ask_top = top is not None and self._top_speed >= hopeful
        limit = top if ask_top else max(self._left_open, self._least)
        while limit is not None and not self.over():
            answer = self._ask(limit, grid, (ROUGH, EXACT) if last or limit == top else (ROUGH,))
            if answer is None:
                return
            speed, bound = answer
            if limit == top:
                self._top_speed = speed
            if bound is not None:
                self.lower = bound.value
                yield bound
            bracket.note(limit, speed, ruled_out=bound is not None)
            limit = bracket.next(self._least, step, unit)
        self._left_open = bracket.fast[0] if bracket.fast and bracket.slow else 0

    @property
    def _least(self) -> int:
        """The least number of ticks that is not ruled out yet."""
        return -(-self.lower // self.counts.unit) * self.counts.unit

    def _ask(self, limit: int, grid: int, exactness: tuple[float, ...]) -> tuple[float, Bound | None] | None:
        """Return the least speed within so many ticks, and the bound where these are too few; None if out of time."""
        try:
            return self._answer(limit, grid, exactness)
        except OverError:
            return None

    def _check(self) -> None:
        if self.over():
            raise OverError

    def _answer(self, limit: int, grid: int, exactness: tuple[float, ...]) -> tuple[float, Bound | None] | None:
        program = CountsProgram(self.counts, limit, grid, self._check)
        speed = 0.0
        for exact in exactness:
            solved = program.solve(exact, self.deadline - time.monotonic(), self.stopped)
            if solved is None:
                return None
            speed, weights = solved
            if speed < CLEARLY_ENOUGH:
                break
            if (rows := prove(self.counts, limit, grid, weights)) is not None:
                value = limit + self.counts.unit
                evidence = {"rule": "counts", "rows": rows, "objective": self.objective, "bound": value}
                return speed, Bound(value, evidence)
        return speed, None


SCALES: Final = (30, 300, 3_000, 30_000, 300_000, 3_000_000, 30_000_000)
"""The largest weights of a proof to try; the first that does is taken, since small numbers make short plans."""
_LARGEST: Final = 1 << 60
"""No sum of weights may pass this, so that 64 bits hold all of them."""


class IntegerWeights:
    """A row with weights in whole numbers: ``weight[i]`` at each tick from ``times[i]`` on, until ``times[i + 1]``.

    ``rest[i]`` is the sum of the weights of all ticks from ``times[i]`` on, ``total`` that of all: exact, even where 64
    bits, and so ``rest``, cannot hold it.
    """

    def __init__(self, row: CountRow, times: Ticks, weight: Ticks) -> None:
        self.row, self.times, self.weight = row, times, weight
        self.total = sum(map(operator.mul, weight.tolist(), np.diff(times).tolist()))
        self.rest = np.concatenate([np.cumsum((weight * np.diff(times))[::-1])[::-1], [0]])

    def onward(self, ticks: Ticks) -> Ticks:
        """Return the sum of the weights of all ticks from each given one on."""
        index = np.searchsorted(self.times, ticks, side="right") - 1
        inside = np.clip(index, 0, len(self.weight) - 1)
        gone = np.where(ticks < self.times[-1], self.weight[inside] * (ticks - self.times[inside]), 0)
        return np.asarray(np.where(index < 0, self.rest[0], self.rest[np.clip(index, 0, None)] - gone))

    def evidence(self) -> dict[str, Any]:
        """Return the row as a certificate names it."""
        times, weights = self.times.tolist(), self.weight.tolist()
        return {"row": self.row.name, "at": list(self.row.at), "times": times, "weights": weights}


def prove(counts: Counts, limit: int, grid: int, found: list[RowWeights]) -> list[dict[str, Any]] | None:
    """Return the rows of a proof that nothing ends within ``limit`` ticks, or None where the weights are none.

    The price of a start is the sum, over the rows, of the weights that it adds to the left side. All starts together
    pay no more than the weighted limits; each pays at least the least price of its class. So if the least prices of all
    operations exceed the weighted limits, there is no schedule.
    """
    peak = max((float(weights.weight.max(initial=0)) for weights in found), default=0)
    for scale in SCALES if peak > 0 else ():
        rows = [row for weights in found if (row := rounded_weights(weights, scale / peak, grid)) is not None]
        paid = sum(abs(factor) * row.total for row in rows for _, factor, _ in row.row.terms)
        if paid * max(counts.number.values()) > _LARGEST:
            return None
        if least_payment(counts, limit, rows) > sum(row.row.limit * row.total for row in rows):
            return [row.evidence() for row in rows]
    return None


def rounded_weights(weights: RowWeights, scale: float, grid: int) -> IntegerWeights | None:
    """Return a row with its weights rounded; equal blocks that follow one another become one."""
    rounded = np.rint(weights.weight * scale).astype(np.int64)
    starts, values = weights.times[rounded > 0], rounded[rounded > 0]
    if not len(values):
        return None
    gaps = starts[1:] > starts[:-1] + grid
    times = np.concatenate([starts, starts[:-1][gaps] + grid, [starts[-1] + grid]])
    values = np.concatenate([values, np.zeros(int(gaps.sum()) + 1, dtype=np.int64)])
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    changes = np.concatenate([[True], values[1:] != values[:-1]])
    return IntegerWeights(weights.row, times[changes], values[changes][:-1])


def least_payment(counts: Counts, limit: int, rows: Iterable[IntegerWeights]) -> int:
    """Return the least that the starts of all operations within ``limit`` ticks pay for these rows."""
    by_class: dict[OpClass, list[tuple[IntegerWeights, int, int]]] = {op_class: [] for op_class in counts.classes}
    for row in rows:
        for op_class, factor, delay in row.row.terms:
            by_class[op_class].append((row, factor, delay))
    least = {op_class: _cheapest(counts, op_class, limit, terms) for op_class, terms in by_class.items()}
    total = 0
    for stage in counts.stages:
        ways = [least[kind, stage] + (least["W", stage] if kind == "I" else 0) for kind in counts.gradients[stage]]
        total += counts.number[stage] * (least["F", stage] + min(ways, default=0))
    return total


def _cheapest(counts: Counts, op_class: OpClass, limit: int, terms: list[tuple[IntegerWeights, int, int]]) -> int:
    """Return the least price of a start of a class within its window; 0 is free to one that may wait for ever."""
    first, last = counts.release[op_class], counts.latest(op_class, limit)
    borders = [np.array([first] if last is None else [first, last], dtype=np.int64)]
    borders += [row.times - delay for row, _, delay in terms]
    ticks = np.unique(np.concatenate(borders))
    ticks = ticks[(ticks >= first) & (ticks <= (ticks[-1] if last is None else last))]
    price = np.zeros(len(ticks), dtype=np.int64)
    for row, factor, delay in terms:
        price += factor * row.onward(ticks + delay)
    return int(price.min()) if last is not None else min(0, int(price.min()))
