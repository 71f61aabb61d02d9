"""Where each operation of a schedule stands, be the schedule right or wrong: as arrays, and as a mapping.

What the problem does not know at all is left out: SV101 reports it, and no other property sees it.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cached_property

import numpy as np

from schedverify.core.op import KIND_SHIFT, STAGE_SHIFT, Kind, Op
from schedverify.core.problem import Problem
from schedverify.core.schedule import (
    OPERATION_MASK,
    Flags,
    IntArray,
    Schedule,
    Words,
    kinds,
    op_stages,
    positions,
    rank_of_each,
)
from schedverify.simulator.csr_graph import merged

Place = tuple[int, int]
"""A rank and a position in its order."""


class Occurrences:
    """Every compute operation of a schedule that the problem knows, once for each time that it stands.

    The arrays have one entry for each time, rank by rank in order. Where rank 0 runs 0F0, 0F1 and 0B0, and
    rank 1 runs 1F0 and then 1F1 and 1B0 in one overlapped step, they are:

    .. code-block:: text

        op              0F0  0F1  0B0  1F0  1F1  1B0       step_rank      0  0  0  1  1
        rank             0    0    0    1    1    1        step_position  0  1  2  0  1
        position         0    1    2    0    1    1        node           0  1  2  3  4
        step             0    1    2    3    4    4

    Attributes
    ----------
    op, rank, position
        The packed operation, its joins taken off, and where it stands. Shape (entries,).
    step
        The number of its step among those that compute.
    step_rank, step_position
        Where each step stands that computes. Shape (steps,).
    ops, index
        The different operations, sorted, and for each entry which of them it is.
    node
        By step, the number of the first of those that run as one with it: an operation on several ranks is one.
    """

    def __init__(self, schedule: Schedule, problem: Problem) -> None:
        self.schedule, self.problem = schedule, problem
        words = np.concatenate(schedule.rows)
        chosen = _computing(words, problem)
        self.op = words[chosen] & OPERATION_MASK
        self.rank = rank_of_each(schedule)[chosen]
        self.position = np.concatenate([positions(row) for row in schedule.rows])[chosen]
        begins = np.ones(len(self.op), dtype=bool)
        begins[1:] = (np.diff(self.rank) != 0) | (np.diff(self.position) != 0)
        self.step = np.cumsum(begins) - 1
        self.step_rank, self.step_position = self.rank[begins], self.position[begins]
        self.ops, self.index = np.unique(self.op, return_inverse=True)
        self.node = self._merged()

    @cached_property
    def steps(self) -> list[list[tuple[Op, ...]]]:
        """By rank, the operations of each step; a step of which the problem knows none, or a message, is empty."""
        found = []
        for rank, row in enumerate(self.schedule.rows):
            known = iter(_computing(row, self.problem).tolist())
            found.append([tuple(op for op in step.ops if next(known)) for step in self.schedule.steps(rank)])
        return found

    @cached_property
    def places(self) -> dict[Op, list[Place]]:
        """For each operation every place where it stands, by rank and position."""
        found: dict[Op, list[Place]] = {}
        for rank, steps in enumerate(self.steps):
            for position, ops in enumerate(steps):
                for op in ops:
                    found.setdefault(op, []).append((rank, position))
        return found

    @cached_property
    def main(self) -> dict[Op, tuple[Place, ...]]:
        """For each operation that stands anywhere, the places of its main instance: of what others wait for.

        That is its first occurrence on each rank of its stage, taken as one; where it stands on none of them, its first
        occurrence on the lowest rank that has it.
        """
        return {op: self._main(op, places) for op, places in self.places.items()}

    def is_main(self, op: Op, rank: int, position: int) -> bool:
        """Whether the operation at a place belongs to its main instance."""
        return (rank, position) in self.main[op]

    @property
    def own(self) -> Flags:
        """By entry, whether it stands on a rank of its stage."""
        return self._on_stages_of(1)

    @property
    def again(self) -> Flags:
        """By entry, whether it repeats an earlier one of its rank."""
        again = np.ones(len(self.op), dtype=bool)
        again[self._first_by_rank[1]] = False
        return again

    def first(self, ops: IntArray) -> IntArray:
        """Return the first step of packed operations on the lowest rank that has them, or -1."""
        index, found = self._index(ops)
        firsts = np.unique(self.index, return_index=True)[1]
        return np.where(found, self.step[firsts[index]], -1) if len(firsts) else np.full(len(ops), -1)

    def first_on(self, ops: IntArray, ranks: IntArray) -> IntArray:
        """Return the first step of packed operations on given ranks, or -1 where one does not stand there."""
        index, found = self._index(ops)
        keys, firsts = self._first_by_rank
        if not len(keys):
            return np.full(len(ops), -1)
        wanted = index * self.problem.ranks + ranks
        at = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
        return np.where(found & (keys[at] == wanted), self.step[firsts[at]], -1)

    @cached_property
    def _first_by_rank(self) -> tuple[IntArray, IntArray]:
        """Sorted (operation, rank) pairs as numbers, and the entry where each stands first."""
        return np.unique(self.index * self.problem.ranks + self.rank, return_index=True)

    def _index(self, ops: IntArray) -> tuple[IntArray, Flags]:
        """Return the places of packed operations in the sorted list of those that stand, and whether they do."""
        if not len(self.ops):
            return np.zeros(len(ops), dtype=np.int64), np.zeros(len(ops), dtype=bool)
        index = np.minimum(np.searchsorted(self.ops, ops), len(self.ops) - 1)
        return index, self.ops[index] == ops

    def _main(self, op: Op, places: list[Place]) -> tuple[Place, ...]:
        first = dict(reversed(places))  # by rank; of several positions there, the first comes last and stays
        own = tuple((rank, first[rank]) for rank in sorted(self.problem.placement[op.stage]) if rank in first)
        return own or (places[0],)

    def _merged(self) -> IntArray:
        """Return for each step the first of those that run as one with it: firsts of one operation on its ranks."""
        chosen = np.flatnonzero(self._on_stages_of(2))
        keys, first = np.unique(self.index[chosen] * self.problem.ranks + self.rank[chosen], return_index=True)
        steps, ops = self.step[chosen[first]], keys // self.problem.ranks
        same = np.flatnonzero(ops[1:] == ops[:-1])
        pairs = zip(steps[same].tolist(), steps[same + 1].tolist(), strict=True)
        return merged(len(self.step_rank), list(pairs)) if len(same) else np.arange(len(self.step_rank))

    def _on_stages_of(self, least: int) -> Flags:
        """Mark the entries that stand on a rank of their stage, which stands on at least so many."""
        rows = enumerate(self.problem.placement)
        count = self.problem.ranks
        pairs = [stage * count + rank for stage, ranks in rows if len(ranks) >= least for rank in ranks]
        stage = op_stages(self.op)
        return np.isin(stage * count + self.rank, np.array(pairs, dtype=np.int64))


def _computing(words: Words, problem: Problem) -> Flags:
    """Mark the packed operations that compute and that the problem knows."""
    return (kinds(words) <= int(Kind.W)) & problem.has_operations(words)


def joined(pairs: Iterable[tuple[IntArray, IntArray]]) -> tuple[IntArray, IntArray]:
    """Return the first arrays of some pairs one after another, and the second ones."""
    first, second = (np.concatenate(arrays) for arrays in zip(*pairs, strict=True))
    return first, second


def packed(kind: Kind, stage: IntArray, microbatch: IntArray) -> IntArray:
    """Return packed compute operations."""
    return np.asarray(int(kind) << KIND_SHIFT | stage << STAGE_SHIFT | microbatch)
