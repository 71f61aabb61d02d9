"""Where the compute operations of a schedule stand, as arrays, and which of their steps run as one."""

from __future__ import annotations

from functools import cached_property

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

    The main instance of an operation is what :class:`schedverify.instances.Instances` calls so: others wait for it.

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
        self._find_mains()
        self.node = self._merged()

    def main_node(self, ops: Ints) -> Ints:
        """Return for packed operations the node of the main instance, or -1 where one stands nowhere."""
        index, found = self._index(ops)
        return np.where(found, self.node[self._main_step[index]], -1) if len(self.op) else np.full(len(ops), -1)

    def first_on(self, ops: Ints, ranks: Ints) -> Ints:
        """Return the first position of packed operations on given ranks, or -1 where one does not stand there."""
        index, found = self._index(ops)
        keys, firsts = self._first_by_rank
        if not len(keys):
            return np.full(len(ops), -1)
        wanted = index * self.problem.ranks + ranks
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(found & (keys[at] == wanted), self.position[firsts[at]], -1)

    def _find_mains(self) -> None:
        """Sort the operations, and find for each the first entry that counts."""
        order = np.lexsort((self.position, self.rank, ~self._own, self.op))
        self._ops, first = np.unique(self.op[order], return_index=True)
        self._main_step = self.step[order[first]]

    @cached_property
    def _own(self) -> NDArray[np.bool_]:
        """Whether each entry stands on a rank of its stage."""
        pairs = [stage << 16 | rank for stage, ranks in enumerate(self.problem.placement) for rank in ranks]
        stage = self.op >> STAGE_SHIFT & INDEX_MASK
        return np.isin(stage << 16 | self.rank, np.array(pairs, dtype=np.int64))

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
        """Return for each step the first of those that run as one with it."""
        parent = np.arange(len(self.step_rank))
        shared = np.array([len(ranks) > 1 for ranks in self.problem.placement])
        chosen = np.flatnonzero(shared[self.op >> STAGE_SHIFT & INDEX_MASK] & self._own)
        if not len(chosen):
            return parent
        roots = parent.tolist()

        def root(step: int) -> int:
            while roots[step] != step:
                roots[step] = roots[roots[step]]
                step = roots[step]
            return step

        index, _ = self._index(self.op[chosen])
        _, first = np.unique(index * self.problem.ranks + self.rank[chosen], return_index=True)
        for entry, main in zip(chosen[first].tolist(), index[first].tolist(), strict=True):
            pair = sorted((root(int(self.step[entry])), root(int(self._main_step[main]))))
            roots[pair[1]] = pair[0]
        return np.array([root(step) for step in range(len(roots))], dtype=np.int64)


def packed(kind: Kind, stage: Ints, microbatch: Ints) -> Ints:
    """Return packed compute operations."""
    return np.asarray(int(kind) << KIND_SHIFT | stage << STAGE_SHIFT | microbatch)
