"""Where the compute operations of a schedule stand, as arrays, and which of their steps run as one."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from schedverify.core.op import INDEX_MASK, JOIN_SHIFT, KIND_SHIFT, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, kinds, positions

Ints = NDArray[np.int64]
_JOINLESS = (1 << JOIN_SHIFT) - 1


class Occurrences:
    """Every compute operation that the problem admits; one entry for each time that it stands, rank by rank.

    Attributes
    ----------
    op, rank, position
        The packed operation, its joins taken off, and where it stands.
    step
        The number of its step.
    step_rank, step_position
        Where each step stands that computes, rank by rank in order.
    ops, index
        The different operations, sorted, and for each entry which of them it is.
    node
        By step, the number of the first of those that run as one with it: an operation on several ranks is one.
    """

    def __init__(self, schedule: Schedule, problem: Problem) -> None:
        self.problem = problem
        words = np.concatenate(schedule.rows)
        chosen = (kinds(words) <= int(Kind.W)) & problem.has_operations(words)
        self.op = words[chosen] & _JOINLESS
        self.rank = np.repeat(np.arange(schedule.ranks), [len(row) for row in schedule.rows])[chosen]
        self.position = np.concatenate([positions(row) for row in schedule.rows])[chosen]
        begins = np.ones(len(self.op), dtype=bool)
        begins[1:] = (np.diff(self.rank) != 0) | (np.diff(self.position) != 0)
        self.step = np.cumsum(begins) - 1
        self.step_rank, self.step_position = self.rank[begins], self.position[begins]
        self.ops, self.index = np.unique(self.op, return_inverse=True)
        self.node = self._merged()

    @property
    def own(self) -> NDArray[np.bool_]:
        """Whether each entry stands on a rank of its stage."""
        return self._on_stages_of(1)

    @property
    def again(self) -> NDArray[np.bool_]:
        """Whether each entry repeats an earlier one of its rank."""
        again = np.ones(len(self.op), dtype=bool)
        again[self._first_by_rank[1]] = False
        return again

    def first(self, ops: Ints) -> Ints:
        """Return the first step of packed operations on the lowest rank that has them, or -1."""
        index, found = self._index(ops)
        firsts = np.unique(self.index, return_index=True)[1]
        return np.where(found, self.step[firsts[index]], -1) if len(firsts) else np.full(len(ops), -1)

    def first_on(self, ops: Ints, ranks: Ints) -> Ints:
        """Return the first step of packed operations on given ranks, or -1 where one does not stand there."""
        index, found = self._index(ops)
        keys, firsts = self._first_by_rank
        if not len(keys):
            return np.full(len(ops), -1)
        wanted = index * self.problem.ranks + ranks
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(found & (keys[at] == wanted), self.step[firsts[at]], -1)

    @cached_property
    def _first_by_rank(self) -> tuple[Ints, Ints]:
        """Sorted (operation, rank) pairs as numbers, and the entry where each stands first."""
        return np.unique(self.index * self.problem.ranks + self.rank, return_index=True)

    def _index(self, ops: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Return the places of packed operations in the sorted list of those that stand, and whether they do."""
        if not len(self.ops):
            return np.zeros(len(ops), dtype=np.int64), np.zeros(len(ops), dtype=bool)
        index = np.minimum(np.searchsorted(self.ops, ops), len(self.ops) - 1)
        return index, self.ops[index] == ops

    def _merged(self) -> Ints:
        """Return for each step the first of those that run as one with it: firsts of one operation on its ranks."""
        chosen = np.flatnonzero(self._on_stages_of(2))
        roots = list(range(len(self.step_rank)))
        if not len(chosen):
            return np.array(roots, dtype=np.int64)

        def root(step: int) -> int:
            while roots[step] != step:
                roots[step] = roots[roots[step]]
                step = roots[step]
            return step

        keys, first = np.unique(self.index[chosen] * self.problem.ranks + self.rank[chosen], return_index=True)
        steps, ops = self.step[chosen[first]].tolist(), (keys // self.problem.ranks).tolist()
        for (step, op), (other, same) in pairwise(zip(steps, ops, strict=True)):
            if op == same:
                low, high = sorted((root(step), root(other)))
                roots[high] = low
        return np.array([root(step) for step in range(len(roots))], dtype=np.int64)

    def _on_stages_of(self, least: int) -> NDArray[np.bool_]:
        """Mark the entries that stand on a rank of their stage, which stands on at least so many."""
        rows = enumerate(self.problem.placement)
        count = self.problem.ranks
        pairs = [stage * count + rank for stage, ranks in rows if len(ranks) >= least for rank in ranks]
        stage = self.op >> STAGE_SHIFT & INDEX_MASK
        return np.isin(stage * count + self.rank, np.array(pairs, dtype=np.int64))


def packed(kind: Kind, stage: Ints, microbatch: Ints) -> Ints:
    """Return packed compute operations."""
    return np.asarray(int(kind) << KIND_SHIFT | stage << STAGE_SHIFT | microbatch)
