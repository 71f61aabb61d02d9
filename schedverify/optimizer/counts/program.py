"""The count relaxation as a linear program on a grid of ticks, and its weights as PDLP finds them.

PDLP: Applegate et al., Practical large-scale linear programming using primal-dual hybrid gradient, arXiv 2106.04756.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray

from schedverify.core.ending import Check, checked, go_on
from schedverify.optimizer.counts.relaxation import CountRow, Counts, OpClass

if TYPE_CHECKING:
    from ortools.math_opt.python import mathopt

Ticks = NDArray[np.int64]
Reals = NDArray[np.float64]

_POLL: Final = 0.1
"""Seconds between two calls of ``stopped``."""
_TINY: Final = 1e-9
"""A factor below this is one that added up to 0."""


@dataclass(frozen=True)
class RowWeights:
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

    Each class ``c`` may start at its ``points[c]`` alone, so ``N[c]`` is constant between two of them, and each such
    constant is a column, from ``column[c]`` on. Before the first point it is 0; from the last one on it is the number
    of micro-batches, or, for a class in ``loose``, one column more::

        ticks                p0        p1             p2      p3
        N[c]             0   | col 4   | col 5        | col 6 | number (or col 7, if loose)
        row, its block          |-----------|                    shifted by the delay of c in the row
        share                     .5 of col 4, .5 of col 5

    The matrix is a list of triples (row, column, factor), in parts one below another; ``parts`` has for each the row
    of the relaxation, or None, and where its blocks start, which is how dual values are led back to ticks::

                          columns of class 0, of class 1, ...   speed
        _rises(c)           1 -1 ...                                         <= 0      a part for each class
        _either(stage)      1 ... 1 ...                                      = number  for each mixed stage
        _row(row)           the factors times the shares        -limit       <= -fixed a part for each row
    """

    def __init__(self, counts: Counts, limit: int, grid: int, check: Check = go_on) -> None:
        self.counts, self.limit, self.grid = counts, limit, grid
        self.points = self._points()
        self.loose = {
            op_class for op_class in counts.classes if counts.after[op_class] is None or counts.mixed(op_class[1])
        }
        widths = [len(points) - 1 + (op_class in self.loose) for op_class, points in self.points.items()]
        *firsts, self.columns = accumulate(widths, initial=0)
        self.column = dict(zip(self.points, firsts, strict=True))
        self.most = np.repeat([float(counts.number[stage]) for _, stage in self.points], widths)
        self.parts: list[tuple[CountRow | None, Ticks]] = []
        self._blocks: list[tuple[Ticks, Ticks, Reals, Reals, Reals]] = []
        for op_class in checked(counts.classes, check):
            self._rises(op_class)
        for stage in counts.stages:
            if counts.mixed(stage):
                self._either(stage)
        for row in checked(counts.rows, check):
            self._row(row)

    def solve(
        self, exactness: float, seconds: float, stopped: Callable[[], bool]
    ) -> tuple[float, list[RowWeights]] | None:
        """Return the least speed and weights that show it, both about; None where time or ``stopped`` ended it.

        What comes out is rounded and proved in whole numbers, so ``exactness`` may be rough; but with long durations
        the proof of the last tick needs it. Where there is nothing to weigh, nothing takes time and any speed will do.
        """
        if not self.parts:
            return 0.0, []
        from ortools.math_opt.python import mathopt

        if not self._blocks:  # nothing costs a tick, and no row can be broken
            return 0.0, []
        solved = _run(mathopt.Model.from_model_proto(self._proto()), exactness, seconds, stopped)
        if solved is None:
            return None
        speed, dual = solved
        ends = np.cumsum([len(starts) for _, starts in self.parts])
        parts = zip(self.parts, np.split(np.maximum(-dual, 0), ends[:-1]), strict=True)
        return speed, [RowWeights(row, starts, weight) for (row, starts), weight in parts if row is not None]

    def phase(self, row: CountRow) -> int:
        """Return a block border of a row: dependencies have theirs where the later class can start first."""
        return 0 if row.limit else self.counts.release[row.terms[0][0]]

    def _points(self) -> dict[OpClass, Ticks]:
        """By class, the ticks at which it may start: block borders of its rows, and the ends of its window."""
        phases: dict[OpClass, set[int]] = {op_class: set() for op_class in self.counts.classes}
        for row in self.counts.rows:
            for op_class, _, delay in row.terms:
                phases[op_class].add((self.phase(row) - delay) % self.grid)
        points = {}
        for op_class, known in phases.items():
            first, last = self.counts.release[op_class], self.counts.latest(op_class, self.limit)
            last = self.limit + self.grid if last is None else last
            borders = [np.arange(first + (phase - first) % self.grid, last, self.grid) for phase in known]
            points[op_class] = np.unique(np.concatenate([*borders, [first, last]])).astype(np.int64)
        return points

    def _rises(self, op_class: OpClass) -> None:
        """Add that the count of a class never falls."""
        pairs = len(self.points[op_class]) - 2 + (op_class in self.loose)
        if pairs > 0:
            index = np.arange(pairs)
            left = self.column[op_class] + index
            entries = np.tile(index, 2), np.concatenate([left, left + 1]), np.repeat([1.0, -1.0], pairs)
            self._add(None, index, *entries, np.full(pairs, -math.inf), np.zeros(pairs))

    def _either(self, stage: int) -> None:
        """Add, for a mixed stage, that there are as many B and I together as micro-batches, and as many W as I."""
        last = {kind: self.column[kind, stage] + len(self.points[kind, stage]) - 1 for kind in "BIW"}
        rows, columns = np.array([0, 0, 1, 1]), np.array([last["B"], last["I"], last["I"], last["W"]])
        sides = np.array([self.counts.number[stage], 0.0])
        self._add(None, np.arange(2), rows, columns, np.array([1.0, 1, 1, -1]), sides, sides)

    def _row(self, row: CountRow) -> None:
        """Add the mean of a row over each block in which it can be broken."""
        first = min(int(self.points[op_class][0]) + delay for op_class, _, delay in row.terms)
        last = min(self.limit, max(int(self.points[op_class][-1]) + delay for op_class, _, delay in row.terms))
        borders = np.arange(first - (first - self.phase(row)) % self.grid, last + self.grid, self.grid)
        if len(borders) < 2:
            return
        block, column, factor, fixed = self._means(row, borders)
        reach = np.bincount(block, np.maximum(factor, 0) * self.most[column], len(fixed)) + fixed
        useful = np.flatnonzero(reach > row.limit + _TINY)
        number = np.full(len(fixed), -1)
        number[useful] = np.arange(len(useful))
        inside = number[block] >= 0
        block, column, factor = number[block[inside]], column[inside], factor[inside]
        if row.limit:
            block = np.append(block, number[useful])
            column = np.append(column, np.full(len(useful), self.columns))
            factor = np.append(factor, np.full(len(useful), -float(row.limit)))
        self._add(row, borders[useful], block, column, factor, np.full(len(useful), -math.inf), -fixed[useful])

    def _means(self, row: CountRow, borders: Ticks) -> tuple[Ticks, Ticks, Reals, Reals]:
        """Return block, column and factor of each entry of a row's means, and what does not vary in each of them."""
        fixed = np.zeros(len(borders) - 1)
        entries, factors = [], []
        for op_class, factor, delay in row.terms:
            block, column, share = self._shares(op_class, borders - delay)
            known = column >= 0
            np.add.at(fixed, block[~known], factor * share[~known] * self.counts.number[op_class[1]])
            entries.append(block[known] * self.columns + column[known])
            factors.append(factor * share[known])
        where, inverse = np.unique(np.concatenate(entries), return_inverse=True)
        summed = np.bincount(inverse, np.concatenate(factors), len(where)).astype(np.float64)
        where, summed = where[np.abs(summed) > _TINY], summed[np.abs(summed) > _TINY]
        block, column = np.divmod(where, self.columns)
        return block, column, summed, fixed

    def _shares(self, op_class: OpClass, borders: Ticks) -> tuple[Ticks, Ticks, Reals]:
        """Return which part of each block a class spends in which of its columns; -1 stands for all have started."""
        points = self.points[op_class]
        cuts = np.unique(np.concatenate([points, borders]))
        cuts = cuts[(cuts >= max(borders[0], points[0])) & (cuts <= borders[-1])]
        starts, length = cuts[:-1], np.diff(cuts)
        block = np.searchsorted(borders, starts, side="right") - 1
        column = np.searchsorted(points, starts, side="right") - 1
        ended = column == len(points) - 1
        column = np.where(ended & (op_class not in self.loose), -1, column + self.column[op_class])
        return block, column, np.asarray(length / self.grid, dtype=np.float64)

    def _add(self, row: CountRow | None, starts: Ticks, rows: Ticks, columns: Ticks, factors: Reals, least: Reals,
             most: Reals) -> None:  # fmt: skip
        """Add a part: a row of the matrix for each of ``starts``, and its triples, with rows counted from 0."""
        first = sum(len(known) for _, known in self.parts)
        self.parts.append((row, starts))
        self._blocks.append((rows + first, columns, factors, least, most))

    def _proto(self) -> Any:
        """Return the program as MathOpt's ModelProto, whose matrix is sorted by row and column."""
        from ortools.math_opt import model_pb2

        rows, columns, factors, least, most = (np.concatenate(part) for part in zip(*self._blocks, strict=True))
        size, order = self.columns + 1, np.lexsort((columns, rows))
        entries = rows[order].tolist(), columns[order].tolist(), factors[order].tolist()
        upper = [*self.most.tolist(), math.inf]
        variables = {
            "ids": range(size),
            "lower_bounds": [0.0] * size,
            "upper_bounds": upper,
            "integers": [False] * size,
        }
        return model_pb2.ModelProto(
            variables=variables,
            objective={"linear_coefficients": {"ids": [self.columns], "values": [1.0]}},
            linear_constraints={"ids": range(len(least)), "lower_bounds": least, "upper_bounds": most},
            linear_constraint_matrix=dict(zip(("row_ids", "column_ids", "coefficients"), entries, strict=True)),
        )


def _run(
    model: mathopt.Model, exactness: float, seconds: float, stopped: Callable[[], bool]
) -> tuple[float, Reals] | None:
    """Solve beside the caller's thread, which ends it where ``stopped`` says so."""
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
