"""Where the compute operations of a schedule stand, as arrays, and which of their steps run as one."""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from schedverify.admission import admitted
from schedverify.op import INDEX_MASK, JOIN_SHIFT, KIND_SHIFT, STAGE_SHIFT, Kind
from schedverify.problem import Problem
from schedverify.schedule import Schedule, kinds, positions

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
    node
        By step, the number of the first of those that run as one with it: an operation on several ranks is one.
    """

    def __init__(self, schedule: Schedule, problem: Problem) -> None:
        self.problem = problem
        words = np.concatenate(schedule.rows)
        chosen = (kinds(words) <= int(Kind.W)) & admitted(words, problem)
        self.op = words[chosen] & _JOINLESS
        self.rank = np.repeat(np.arange(schedule.ranks), [len(row) for row in schedule.rows])[chosen]
        self.position = np.concatenate([positions(row) for row in schedule.rows])[chosen]
        begins = np.ones(len(self.op), dtype=bool)
        begins[1:] = (np.diff(self.rank) != 0) | (np.diff(self.position) != 0)
        self.step = np.cumsum(begins) - 1
        self.step_rank, self.step_position = self.rank[begins], self.position[begins]
        self._ops = np.unique(self.op)
        self.node = self._merged()

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
        index, _ = self._index(self.op)
        return np.unique(index * self.problem.ranks + self.rank, return_index=True)

    def _index(self, ops: Ints) -> tuple[Ints, NDArray[np.bool_]]:
        """Return the places of packed operations in the sorted list of those that stand, and whether they do."""
        if not len(self._ops):
            return np.zeros(len(ops), dtype=np.int64), np.zeros(len(ops), dtype=bool)
        index = np.minimum(np.searchsorted(self._ops, ops), len(self._ops) - 1)
        return index, self._ops[index] == ops

    def _merged(self) -> Ints:
        """Return for each step the first of those that run as one with it: firsts of one operation on its ranks."""
        chosen = self._shared()
        roots = list(range(len(self.step_rank)))
        if not len(chosen):
            return np.array(roots, dtype=np.int64)

        def root(step: int) -> int:
            while roots[step] != step:
                roots[step] = roots[roots[step]]
                step = roots[step]
            return step

        index, _ = self._index(self.op[chosen])
        keys, first = np.unique(index * self.problem.ranks + self.rank[chosen], return_index=True)
        steps, ops = self.step[chosen[first]].tolist(), (keys // self.problem.ranks).tolist()
        for (step, op), (other, same) in pairwise(zip(steps, ops, strict=True)):
            if op == same:
                low, high = sorted((root(step), root(other)))
                roots[high] = low
        return np.array([root(step) for step in range(len(roots))], dtype=np.int64)

    def _shared(self) -> Ints:
        """Return the entries of stages that stand on several ranks, where they stand on one of these."""
        pairs = [stage << 16 | r for stage, ranks in enumerate(self.problem.placement) if len(ranks) > 1 for r in ranks]
        stage = self.op >> STAGE_SHIFT & INDEX_MASK
        return np.flatnonzero(np.isin(stage << 16 | self.rank, np.array(pairs, dtype=np.int64)))


def packed(kind: Kind, stage: Ints, microbatch: Ints) -> Ints:
    """Return packed compute operations."""
    return np.asarray(int(kind) << KIND_SHIFT | stage << STAGE_SHIFT | microbatch)
