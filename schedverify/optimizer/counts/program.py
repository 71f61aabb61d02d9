"""The count relaxation as a linear program on a grid of ticks, and its weights as PDLP finds them."""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from schedverify.optimizer.counts.relaxation import Class, CountRow, Counts

if TYPE_CHECKING:
    from ortools.math_opt.python import mathopt

Ticks = NDArray[np.int64]
Reals = NDArray[np.float64]

_POLL: Final = 0.1
"""Seconds between two looks at whether somebody wishes the search to end."""
_TINY: Final = 1e-9


@dataclass(frozen=True)
class Weights:
    """What a row weighs at each tick: ``weight[i]`` from ``times[i]`` on, until ``times[i + 1]``."""

    row: CountRow
    times: Ticks
    weight: Reals


class CountsProgram:
    """The least ``speed`` with which the counts fit into ``limit`` ticks, in blocks of ``grid`` ticks.

    ``speed`` multiplies what ranks can run and hold at once. Above 1 there is no schedule within the limit, and the
    dual values of the rows, as weights, are the proof. The grid restricts the weights alone: each is constant over
    blocks of ``grid`` ticks, so a row stands here once for each block, as its mean over the block. No duration is
    rounded. The price of a start is then linear between the block borders of the rows that it takes part in, so it is
    lowest at one of them, and no class needs to start at any other tick.
    """

    def __init__(self, counts: Counts, limit: int, grid: int) -> None:
        self.counts, self.limit, self.grid = counts, limit, grid
        self.points = self._points()
        self.loose = {one for one in counts.classes if counts.after[one] is None or counts.mixed(one[1])}
        self.column: dict[Class, int] = {}
        self.columns = 0
        for one, points in self.points.items():
            self.column[one] = self.columns
            self.columns += len(points) - 1 + (one in self.loose)
        self.most = np.concatenate([self._most(one) for one in counts.classes])
        self.parts: list[tuple[CountRow | None, Ticks]] = []
        self._blocks: list[tuple[Ticks, Ticks, Reals, Reals, Reals]] = []
        for one in counts.classes:
            self._rises(one)
        for stage in counts.stages:
            if counts.mixed(stage):
                self._either(stage)
        for row in counts.rows:
            self._row(row)

    def solve(
        self, exactness: float, seconds: float, stopped: Callable[[], bool]
    ) -> tuple[float, list[Weights]] | None:
        """Return the least speed and weights that show it, about; None where the time or a wish ended it.

        What comes out is rounded and proved in whole numbers, so ``exactness`` may be rough; but with long durations
        the proof of the last tick needs it.
        """
        from ortools.math_opt.python import mathopt

        model = mathopt.Model.from_model_proto(self._proto())
        solved = _run(model, exactness, seconds, stopped)
        if solved is None:
            return None
        speed, dual = solved
        weights, first = [], 0
        for row, starts in self.parts:
            if row is not None:
                found = np.maximum(-dual[first : first + len(starts)], 0)
                weights.append(Weights(row, starts, found))
            first += len(starts)
        return speed, weights

    def phase(self, row: CountRow) -> int:
        """Return a block border of a row: dependencies have theirs where the later class can start first."""
        return 0 if row.limit else self.counts.release[row.terms[0][0]]

    def _points(self) -> dict[Class, Ticks]:
        """By class, the ticks at which it may start: block borders of its rows, and the ends of its window."""
        phases: dict[Class, set[int]] = {one: set() for one in self.counts.classes}
        for row in self.counts.rows:
            for one, _, delay in row.terms:
                phases[one].add((self.phase(row) - delay) % self.grid)
        points = {}
        for one, known in phases.items():
            first, last = self.counts.release[one], self.counts.latest(one, self.limit)
            last = self.limit + self.grid if last is None else last
            borders = [np.arange(first + (phase - first) % self.grid, last, self.grid) for phase in known]
            points[one] = np.unique(np.concatenate([*borders, [first, last]])).astype(np.int64)
        return points

    def _most(self, one: Class) -> Reals:
        columns = len(self.points[one]) - 1 + (one in self.loose)
        return np.full(columns, float(self.counts.number[one[1]]))

    def _rises(self, one: Class) -> None:
        """No less of a class have started later on."""
        pairs = len(self.points[one]) - 2 + (one in self.loose)
        if pairs > 0:
            index = np.arange(pairs)
            left = self.column[one] + index
            entries = np.concatenate([index, index]), np.concatenate([left, left + 1])
            factors = np.concatenate([np.ones(pairs), -np.ones(pairs)])
            self._add(None, index, *entries, factors, np.full(pairs, -math.inf), np.zeros(pairs))

    def _either(self, stage: int) -> None:
        """As many B and I together as micro-batches, and as many W as I."""
        last = {kind: self.column[kind, stage] + len(self.points[kind, stage]) - 1 for kind in "BIW"}
        rows, columns = np.array([0, 0, 1, 1]), np.array([last["B"], last["I"], last["I"], last["W"]])
        sides = np.array([self.counts.number[stage], 0.0])
        self._add(None, np.arange(2), rows, columns, np.array([1.0, 1, 1, -1]), sides, sides)

    def _row(self, row: CountRow) -> None:
        """Add the mean of a row over each block in which it can be broken."""
        first = min(int(self.points[one][0]) + delay for one, _, delay in row.terms)
        last = min(self.limit, max(int(self.points[one][-1]) + delay for one, _, delay in row.terms))
        borders = np.arange(first - (first - self.phase(row)) % self.grid, last + self.grid, self.grid)
        if len(borders) < 2:
            return
        block, column, factor, fixed = self._means(row, borders)
        reach = np.bincount(block, np.maximum(factor, 0) * self.most[column], len(fixed)) + fixed
        useful = np.flatnonzero(reach > row.limit + _TINY)
        number = np.full(len(fixed), -1)
        number[useful] = np.arange(len(useful))
        kept = number[block] >= 0
        block, column, factor = number[block[kept]], column[kept], factor[kept]
        if row.limit:
            block = np.concatenate([block, number[useful]])
            column = np.concatenate([column, np.full(len(useful), self.columns)])
            factor = np.concatenate([factor, np.full(len(useful), -float(row.limit))])
        self._add(row, borders[useful], block, column, factor, np.full(len(useful), -math.inf), -fixed[useful])

    def _means(self, row: CountRow, borders: Ticks) -> tuple[Ticks, Ticks, Reals, Reals]:
        """Return block, column and factor of each entry of a row's means, and what does not vary in each of them."""
        fixed = np.zeros(len(borders) - 1)
        entries, factors = [], []
        for one, factor, delay in row.terms:
            block, column, share = self._shares(one, borders - delay)
            known = column >= 0
            np.add.at(fixed, block[~known], factor * share[~known] * self.counts.number[one[1]])
            entries.append(block[known] * self.columns + column[known])
            factors.append(factor * share[known])
        where, inverse = np.unique(np.concatenate(entries), return_inverse=True)
        summed = np.bincount(inverse, np.concatenate(factors), len(where)).astype(np.float64)
        where, summed = where[np.abs(summed) > _TINY], summed[np.abs(summed) > _TINY]
        block, column = np.divmod(where, self.columns)
        return block, column, summed, fixed

    def _shares(self, one: Class, borders: Ticks) -> tuple[Ticks, Ticks, Reals]:
        """Return which part of each block a class spends in which of its columns; -1 stands for all have started."""
        points = self.points[one]
        cuts = np.unique(np.concatenate([points, borders]))
        cuts = cuts[(cuts >= max(borders[0], points[0])) & (cuts <= borders[-1])]
        starts, length = cuts[:-1], np.diff(cuts)
        block = np.searchsorted(borders, starts, side="right") - 1
        column = np.searchsorted(points, starts, side="right") - 1
        ended = column == len(points) - 1
        column = np.where(ended & (one not in self.loose), -1, column + self.column[one])
        return block, column, np.asarray(length / self.grid, dtype=np.float64)

    def _add(self, row: CountRow | None, starts: Ticks, rows: Ticks, columns: Ticks, factors: Reals, least: Reals,
             most: Reals) -> None:  # fmt: skip
        first = sum(len(known) for _, known in self.parts)
        self.parts.append((row, starts))
        self._blocks.append((rows + first, columns, factors, least, most))

    def _proto(self) -> Any:
        from ortools.math_opt import model_pb2

        rows, columns, factors, least, most = (np.concatenate(part) for part in zip(*self._blocks, strict=True))
        order = np.lexsort((columns, rows))
        proto = model_pb2.ModelProto()
        proto.variables.ids.extend(range(self.columns + 1))
        proto.variables.lower_bounds.extend([0.0] * (self.columns + 1))
        proto.variables.upper_bounds.extend([*self.most.tolist(), math.inf])
        proto.variables.integers.extend([False] * (self.columns + 1))
        proto.objective.linear_coefficients.ids.append(self.columns)
        proto.objective.linear_coefficients.values.append(1.0)
        proto.linear_constraints.ids.extend(range(len(least)))
        proto.linear_constraints.lower_bounds.extend(least.tolist())
        proto.linear_constraints.upper_bounds.extend(most.tolist())
        proto.linear_constraint_matrix.row_ids.extend(rows[order].tolist())
        proto.linear_constraint_matrix.column_ids.extend(columns[order].tolist())
        proto.linear_constraint_matrix.coefficients.extend(factors[order].tolist())
        return proto


def _run(
    model: mathopt.Model, exactness: float, seconds: float, stopped: Callable[[], bool]
) -> tuple[float, Reals] | None:
    """Solve beside the caller's thread, which ends it when somebody wishes so."""
    from datetime import timedelta

    from ortools.math_opt.python import mathopt
    from ortools.pdlp import solvers_pb2
    from ortools.util.python.solve_interrupter import SolveInterrupter

    method = solvers_pb2.PrimalDualHybridGradientParams(num_threads=1)
    criteria = method.termination_criteria.simple_optimality_criteria
    criteria.eps_optimal_absolute = criteria.eps_optimal_relative = exactness
    parameters = mathopt.SolveParameters(time_limit=timedelta(seconds=max(seconds, 0.01)), pdlp=method)
    interrupter = SolveInterrupter()
    with ThreadPoolExecutor(1, "schedverify-counts") as pool:
        future = pool.submit(mathopt.solve, model, mathopt.SolverType.PDLP, params=parameters, interrupter=interrupter)
        try:
            while not wait([future], _POLL).done:
                if stopped():
                    interrupter.interrupt()
        finally:
            interrupter.interrupt()
    result = future.result()
    if result.termination.reason is not mathopt.TerminationReason.OPTIMAL:
        return None
    dual = result.dual_values()
    return result.objective_value(), np.array([dual[row] for row in model.linear_constraints()])
