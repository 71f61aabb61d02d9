"""Local search on the orders of a problem: from a schedule that keeps every limit to better ones."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence, Sized
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np

from schedverify.core.problem import Problem
from schedverify.optimizer.orders import Rows
from schedverify.optimizer.tasks import Node, Tasks, node_of
from schedverify.optimizer.values import OpKey

if TYPE_CHECKING:
    from schedverify.optimizer.heuristics.annealing import Ints, Jobs

LEAST_STEPS: Final = 80
"""Below this many operations the solver is done before a compiler has begun."""
_NO_LIMIT: Final = 1 << 62
_LEG: Final = 20_000
"""Moves between two looks at the clock."""


def takes(tasks: Tasks, rows: Rows) -> bool:
    """Whether a local search can pay: every stage on one rank, and enough operations."""
    return sum(map(len, rows)) >= LEAST_STEPS and all(len(ranks) == 1 for ranks in tasks.problem.placement)


class LocalSearch:
    """Simulated annealing from a given order.

    Moves keep the order of each stage's F, of its gradient ops and of its weight ops, and whether a backward is one B.
    For the makespan nothing is lost by the first of these where they go first in, first out.

    Parameters
    ----------
    rows
        An order that runs and keeps all limits.
    objective
        ``makespan`` or ``span``.
    """

    def __init__(self, tasks: Tasks, rows: Rows, objective: str) -> None:
        self.tasks = tasks
        self.span = objective == "span"
        self.ops = [op for row in rows for op in row]
        self.rows = rows
        self.jobs = self._jobs()

    def run(self, seed: int, moves: int, target: int, stopped: Callable[[], bool]) -> Rows:
        """Return the best order met in a walk of so many moves, which begins hot and ends cold.

        Parameters
        ----------
        target
            Scaled ticks at which the search is over.
        stopped
            Asked between legs whether to end.
        """
        from schedverify.optimizer.heuristics.annealing import Heat, anneal

        hot, legs = float(np.mean(self.jobs.duration)) / 2, -(-moves // _LEG)
        here = best = self.order()
        value = _NO_LIMIT
        for leg in range(legs):
            if value <= target or stopped():
                break
            heat = Heat(hot * (1 - leg / legs), hot * (1 - (leg + 1) / legs))
            found, order, here = anneal(self.jobs, here, min(moves, _LEG), heat, target, self.span, seed + leg)
            if found < value:
                value, best = found, order
        return self._rows(best)

    def order(self) -> Ints:
        """Return the given order, as places in ``ops``."""
        return np.arange(len(self.ops))

    def _rows(self, order: Ints) -> Rows:
        ops = [self.ops[u] for u in order.tolist()]
        return [ops[begin:end] for begin, end in pairwise(self.jobs.first.tolist())]

    def _jobs(self) -> Jobs:
        """Return the operations as flat arrays."""
        from schedverify.optimizer.heuristics.annealing import Jobs

        tasks, problem = self.tasks, self.tasks.problem
        place = {node_of(op): u for u, op in enumerate(self.ops)}
        waits = [[(place[node], lag) for node, lag in self._inputs(op) if node in place] for op in self.ops]
        followers: list[list[int]] = [[] for _ in self.ops]
        for u, inputs in enumerate(waits):
            for v, _ in inputs:
                followers[v].append(u)
        lines = {line: number for number, line in enumerate(dict.fromkeys(node_of(op)[:2] for op in self.ops))}
        books = [_books(problem, op) for op in self.ops]
        limits = problem.in_flight or [_NO_LIMIT] * problem.ranks
        return Jobs(
            first=_bounds(self.rows),
            duration=_ints(tasks.duration[op[0], op[1]] for op in self.ops),
            rank=_ints(problem.owner_rank[op[1]] for op in self.ops),
            line=_ints(lines[node_of(op)[:2]] for op in self.ops),
            before_of=_bounds(waits),
            before=_ints(v for inputs in waits for v, _ in inputs),
            lag=_ints(lag for inputs in waits for _, lag in inputs),
            after_of=_bounds(followers),
            after=_ints([v for row in followers for v in row] + [-1]),
            taken=_ints(book.taken for book in books),
            kept=_ints(book.kept for book in books),
            opened=_ints(book.opened for book in books),
            left=_ints(book.left for book in books),
            room=_ints(_NO_LIMIT if problem.capacity is None else problem.capacity[r] - problem.static[r]
                       for r in range(problem.ranks)),
            most=_ints(limits),
        )  # fmt: skip

    def _inputs(self, op: OpKey) -> Iterator[tuple[Node, int]]:
        """Yield what an operation waits for: its inputs, and for an F under a limit for its stage a gradient op."""
        yield from self.tasks.inputs(node_of(op))
        if op in self._admitted_by:
            yield self._admitted_by[op], 0

    @cached_property
    def _admitted_by(self) -> dict[OpKey, Node]:
        """By F under a limit K for its stage, the gradient op that must have ended: the K-th before, in their orders.

        Moves keep both orders, so this says just what the limit says.
        """
        limits = self.tasks.problem.in_flight_stage
        admitted: dict[OpKey, Node] = {}
        for stage, limit in enumerate(limits if limits is not None and self.tasks.trains else ()):
            forwards = [op for op in self.ops if op[:2] == ("F", stage)]
            gradients = [node_of(op) for op in self.ops if op[0] in "BI" and op[1] == stage]
            admitted |= dict(zip(forwards[limit:], gradients, strict=False))
        return admitted


class _Book(NamedTuple):
    """What an operation does to its rank: bytes and micro-batches in flight, at its start and in all."""

    taken: int
    kept: int
    opened: int
    left: int


def _books(problem: Problem, op: OpKey) -> _Book:
    kind, stage, _ = op
    kept, full, stash = problem.kept[stage], problem.activation[stage], problem.weight_stash[stage]
    if problem.form == "inference":
        return _Book(full, 0, 1, 0)
    if kind == "F":
        return _Book(kept, kept, 1, 1)
    if kind == "W":
        return _Book(0, -stash, 0, 0)
    return _Book(full - kept, (stash if kind == "I" else 0) - kept, 0, -1)


def _bounds(rows: Sequence[Sized]) -> Ints:
    """Return where each row begins when all stand one behind another, and where the last one ends."""
    return np.concatenate([np.zeros(1, np.int64), np.cumsum([len(row) for row in rows], dtype=np.int64)])


def _ints(values: Iterable[int]) -> Ints:
    return np.array(list(values), dtype=np.int64)
