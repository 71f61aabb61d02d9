"""Local search on the orders of a problem: from a schedule that keeps every limit to better ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence, Sized
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

from schedverify.core.ending import Check, checked, go_on
from schedverify.core.schedule import IntArray
from schedverify.optimizer.orders import Footprint, Rows, footprint
from schedverify.optimizer.tasks import Node, OpKey, Tasks, node_of

if TYPE_CHECKING:
    from schedverify.optimizer.heuristics.order_timing import FlatOps

LEAST_STEPS: Final = 80
"""Below this many operations the solver is done before a compiler has begun."""
MOST_STEPS: Final = 100_000
"""Above this many operations a walk makes too few moves to get anywhere."""
_NO_LIMIT: Final = 1 << 62
_LEG: Final = 20_000
"""The most moves between two looks at the clock."""
_LEG_STEPS: Final = 40_000_000
"""The most operations that are timed between two looks at the clock: every move times all of them."""


def applies(tasks: Tasks, rows: Rows) -> bool:
    """Whether a local search can pay: every stage on one rank, and operations enough but not too many."""
    return LEAST_STEPS <= sum(map(len, rows)) <= MOST_STEPS and all(
        len(ranks) == 1 for ranks in tasks.problem.placement
    )


class LocalSearch:
    """Simulated annealing from a given order.

    Moves keep the order of each stage's F, of its gradient ops and of its weight ops, and whether a backward is one B.
    Nothing is lost by the first of these where they go first in, first out.

    Parameters
    ----------
    rows
        An order that runs and keeps all limits.
    check
        Called while the search is made ready.
    """

    def __init__(self, tasks: Tasks, rows: Rows, check: Check = go_on) -> None:
        self.tasks, self.rows, self.span = tasks, rows, tasks.objective == "span"
        self.ops = [op for row in rows for op in row]
        self.flat = self._flat_ops(check)

    def run(self, seed: int, moves: int, target: int, stopped: Callable[[], bool]) -> Rows:
        """Return the best order met in a walk of so many moves, which begins hot and ends cold.

        Parameters
        ----------
        seed
            Of the first leg; each further leg has one more.
        target
            A value, in scaled ticks, with which the search is over.
        stopped
            Called between two legs; says whether to end.
        """
        from schedverify.optimizer.heuristics.annealing import Cooling, anneal

        leg_moves = min(moves, _LEG, max(1, _LEG_STEPS // len(self.ops)))
        hot, legs = float(np.mean(self.flat.duration)) / 2, -(-moves // leg_moves)
        current = best = self.order()
        value = _NO_LIMIT
        for leg in range(legs):
            if value <= target or stopped():
                break
            cooling = Cooling(hot * (1 - leg / legs), hot * (1 - (leg + 1) / legs))
            found, order, current = anneal(self.flat, current, leg_moves, cooling, target, self.span, seed + leg)
            if found < value:
                value, best = found, order
        return self._rows(best)

    def order(self) -> IntArray:
        """Return the given order, as places in ``ops``."""
        return np.arange(len(self.ops))

    def _rows(self, order: IntArray) -> Rows:
        ops = [self.ops[u] for u in order.tolist()]
        return [ops[begin:end] for begin, end in pairwise(self.flat.rank_begin.tolist())]

    def _flat_ops(self, check: Check) -> FlatOps:
        """Return the operations as flat arrays, numbered as they stand in ``ops``."""
        from schedverify.optimizer.heuristics.order_timing import FlatOps

        tasks, problem = self.tasks, self.tasks.problem
        place = {node_of(op): u for u, op in enumerate(self.ops)}
        admitted = self._admitted_by()
        awaited = [[*tasks.inputs(node_of(op)), *admitted.get(op, ())] for op in checked(self.ops, check)]
        inputs_of = [[(place[node], lag) for node, lag in row if node in place] for row in awaited]
        readers: list[list[int]] = [[] for _ in self.ops]
        for u, inputs in enumerate(checked(inputs_of, check)):
            for v, _ in inputs:
                readers[v].append(u)
        lines = {line: number for number, line in enumerate(dict.fromkeys(node_of(op)[:2] for op in self.ops))}
        footprints = zip(*(footprint(problem, *op[:2]) for op in self.ops), strict=True)
        return FlatOps(
            rank_begin=_row_begins(self.rows),
            duration=_ints(tasks.duration[op[:2]] for op in self.ops),
            rank=_ints(problem.owner_rank[op[1]] for op in self.ops),
            fifo_line=_ints(lines[node_of(op)[:2]] for op in self.ops),
            input_begin=_row_begins(inputs_of),
            inputs=_ints(v for inputs in inputs_of for v, _ in inputs),
            lags=_ints(lag for inputs in inputs_of for _, lag in inputs),
            reader_begin=_row_begins(readers),
            readers=_ints([v for row in readers for v in row] + [-1]),
            **dict(zip(Footprint._fields, map(_ints, footprints), strict=True)),
            byte_limit=_ints(_NO_LIMIT if problem.capacity is None else problem.capacity[r] - problem.static[r]
                             for r in range(problem.ranks)),
            in_flight_limit=_ints(problem.in_flight or [_NO_LIMIT] * problem.ranks),
            end_limit=self._end_limit(),
        )  # fmt: skip

    def _end_limit(self) -> int:
        """Return the scaled ticks by which an order must have ended. A walk for the makespan may pass its limit."""
        limit = self.tasks.problem.makespan_limit if self.span else None
        return _NO_LIMIT if limit is None else self.tasks.scaled(limit) + self.tasks.instant

    def _admitted_by(self) -> dict[OpKey, list[tuple[Node, int]]]:
        """By F under a limit K for its stage, what else it waits for, without a lag: the gradient op K places before.

        Both stand in their orders, and moves keep both orders, so this says just what the limit says.
        """
        admitted: dict[OpKey, list[tuple[Node, int]]] = {}
        for stage, limit in enumerate((self.tasks.trains and self.tasks.problem.in_flight_stage) or ()):
            forwards = [op for op in self.ops if op[:2] == ("F", stage)]
            gradients = [[(node_of(op), 0)] for op in self.ops if op[0] in "BI" and op[1] == stage]
            admitted |= dict(zip(forwards[limit:], gradients, strict=False))
        return admitted


def _row_begins(rows: Sequence[Sized]) -> IntArray:
    """Return where each row begins if all stand one behind another, and where the last one ends: shape (rows + 1,)."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in rows], dtype=np.int64)])


def _ints(values: Iterable[int]) -> IntArray:
    return np.array(list(values), dtype=np.int64)
