"""Steps that take more than one operation or more than one rank: all their parts start together."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from schedverify.core.op import INDEX_MASK, JOIN_SHIFT, STAGE_SHIFT, Op, unpack
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words

_JOINLESS = (1 << JOIN_SHIFT) - 1


@dataclass
class JointStep:
    """One step of each of several ranks (or one overlapped step of one rank) that start as one."""

    steps: dict[int, tuple[Op, ...]]
    arrived: dict[int, int] = field(default_factory=dict)
    start: int | None = None

    @property
    def words(self) -> set[int]:
        """The packed operations of all steps."""
        return {op.pack() for ops in self.steps.values() for op in ops}


def joint_steps_of(schedule: Schedule, problem: Problem) -> tuple[list[JointStep], list[dict[int, int]]]:
    """Return the meetings of a schedule, and by rank which operation (by index) begins a step of which meeting."""
    shared = np.zeros(INDEX_MASK + 1, dtype=bool)
    shared[[stage for stage, ranks in enumerate(problem.placement) if len(ranks) > 1]] = True
    steps = [(rank, index, words) for rank, row in enumerate(schedule.rows) for index, words in _joint(row, shared)]
    groups = _connected([words for _, _, words in steps])
    meetings: list[JointStep] = []
    placed: list[dict[int, int]] = [{} for _ in schedule.rows]
    numbers: dict[int, int] = {}
    for (rank, index, words), group in zip(steps, groups, strict=True):
        number = numbers.setdefault(group, len(meetings))
        if number == len(meetings):
            meetings.append(JointStep({}))
        meetings[number].steps[rank] = tuple(map(unpack, words))
        placed[rank][index] = number
    return meetings, placed


def _joint(row: Words, shared: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> list[tuple[int, tuple[int, ...]]]:
    """Return index and operations (packed, joins taken off) of the steps of a row that are joint."""
    joint = shared[row >> STAGE_SHIFT & INDEX_MASK] | (row >> JOIN_SHIFT != 0)
    if not joint.any():
        return []
    first = np.flatnonzero(row >> JOIN_SHIFT == 0)
    sizes = np.diff(np.append(first, len(row)))
    chosen = np.logical_or.reduceat(joint, first)
    return [
        (index, tuple((row[index : index + size] & _JOINLESS).tolist()))
        for index, size in zip(first[chosen].tolist(), sizes[chosen].tolist(), strict=True)
    ]


def _connected(steps: list[tuple[int, ...]]) -> list[int]:
    """Return for each step the number of its group: steps that share an operation are in one group."""
    parent = list(range(len(steps)))

    def root(step: int) -> int:
        while parent[step] != step:
            parent[step] = parent[parent[step]]
            step = parent[step]
        return step

    owner: dict[int, int] = {}
    for step, words in enumerate(steps):
        for word in words:
            parent[root(step)] = root(owner.setdefault(word, step))
    return [root(step) for step in range(len(steps))]
