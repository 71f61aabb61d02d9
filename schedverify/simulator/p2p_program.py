"""The steps of a lowered schedule as arrays: which compute, which communicate, and what each compute step costs."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from schedverify.core.errors import ScheduleError
from schedverify.core.op import INDEX_MASK, JOIN_SHIFT, MICROBATCH_MASK, STAGE_SHIFT, Join, Kind, unpack
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words, kinds
from schedverify.simulator.joint_steps import joint_steps_of
from schedverify.simulator.preconditions import check_runnable

Ints = NDArray[np.int64]
_W, _RECV_B = int(Kind.W), int(Kind.RECV_B)


class LoweredProgram:
    """All operations of a lowered schedule, rank after rank, and all its steps.

    Attributes
    ----------
    words, rank, step
        By operation: packed, the rank, and the number of its step.
    step_rank
        By step.
    computes
        By step, whether it computes.
    duration
        By step, its ticks; 0 where it does not compute.
    node
        By step that computes, the number of the first of those that start as one with it; of others, their own.
    order
        The compute steps alone, as a schedule.
    """

    def __init__(self, schedule: Schedule, problem: Problem) -> None:
        self.problem = problem
        self.words = np.concatenate(schedule.rows)
        self.rank = np.repeat(np.arange(schedule.ranks), [len(row) for row in schedule.rows])
        kind, begins = kinds(self.words), self.words >> JOIN_SHIFT == 0
        self.step = np.cumsum(begins) - 1
        self.step_rank = self.rank[begins]
        self.computes = kind[begins] <= _W
        self._check_joins(kind)
        self.order = schedule.compute_only()
        check_runnable(self.order, problem, excerpt=False)
        self.duration = self._durations(kind)
        self.node = self._merged()

    @cached_property
    def makers(self) -> tuple[Ints, Ints]:
        """By output (F of stage s and micro-batch m at s·M+m, its B or I at (S+s)·M+m): who makes it, and how long.

        It is made by the node, that many ticks after its start, when the longest of its steps ends.
        """
        kind, count = kinds(self.words), self.problem.microbatches
        node = np.full(2 * self.problem.total_stages * count, -1, dtype=np.int64)
        ticks = np.zeros(len(node), dtype=np.int64)
        makes = np.flatnonzero(kind < _W)
        slot = self.slot(self.words[makes])
        node[slot] = self.node[self.step[makes]]
        np.maximum.at(ticks, slot, self.duration[self.step[makes]])
        return node, ticks

    def slot(self, words: Words) -> Ints:
        """Return where the outputs of F, B and I stand among all outputs."""
        stage = words >> STAGE_SHIFT & INDEX_MASK
        side = np.where(kinds(words) == int(Kind.F), 0, self.problem.total_stages)
        return np.asarray((stage + side) * self.problem.microbatches + (words & MICROBATCH_MASK))

    def place(self, step: int) -> str:
        """Say where a step stands."""
        rank = int(self.step_rank[step])
        return f"rank {rank}, position {step - int(np.searchsorted(self.step_rank, rank))}"

    def text(self, step: int) -> str:
        """Return a step's first operation."""
        return str(unpack(int(self.words[np.searchsorted(self.step, step)])))

    def _check_joins(self, kind: Ints) -> None:
        """Refuse groups of anything but transfers, and overlapped steps of anything but compute."""
        join, transfers = self.words >> JOIN_SHIFT, (kind > _W) & (kind <= _RECV_B)
        group, overlap = join == int(Join.GROUP), join == int(Join.OVERLAP)
        first = np.searchsorted(self.step, self.step)
        bad = group & ~(transfers & transfers[first]) | overlap & ((kind > _W) | (kind[first] > _W))
        if bad.any():
            step = int(self.step[int(bad.argmax())])
            raise ScheduleError(f"{self.place(step)}: {self.text(step)} begins no step of a timeline; verify says more")

    def _durations(self, kind: Ints) -> Ints:
        problem, stages = self.problem, self.problem.total_stages
        costs = np.zeros((_W + 1, stages), dtype=np.int64)
        for letter in np.unique(kind[kind <= _W]).tolist():
            costs[letter] = [problem.duration(letter, stage) for stage in range(stages)]
        computes = kind <= _W
        ticks = np.zeros(len(self.step_rank), dtype=np.int64)
        np.add.at(ticks, self.step[computes], costs[kind[computes], self.words[computes] >> STAGE_SHIFT & INDEX_MASK])
        overlapped = np.unique(self.step[self.words >> JOIN_SHIFT == int(Join.OVERLAP)])
        for step in overlapped.tolist() if problem.overlapped else ():
            first, last = np.searchsorted(self.step, [step, step + 1])
            ticks[step] = problem.step_duration(tuple(map(unpack, self.words[first:last].tolist())))
        return ticks

    def _merged(self) -> Ints:
        node = np.arange(len(self.step_rank))
        if all(len(ranks) == 1 for ranks in self.problem.placement):
            return node
        meetings, placed = joint_steps_of(self.order, self.problem)
        computing = np.flatnonzero(kinds(self.words) <= _W)
        offset, first = 0, [-1] * len(meetings)
        for row, meeting_at in zip(self.order.rows, placed, strict=True):
            for index, meeting in meeting_at.items():
                step = int(self.step[computing[offset + index]])
                first[meeting] = step if first[meeting] < 0 else first[meeting]
                node[step] = first[meeting]
            offset += len(row)
        return node
