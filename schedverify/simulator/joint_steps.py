"""Steps that take more than one operation or more than one rank: all their parts start together."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final

import numpy as np

from schedverify.core.errors import ScheduleError
from schedverify.core.op import INDEX_MASK, JOIN_SHIFT, Op, unpack
from schedverify.core.problem import Problem
from schedverify.core.schedule import (
    OPERATION_MASK,
    Flags,
    IntArray,
    Schedule,
    Words,
    op_stages,
    positions,
    step_bounds,
)
from schedverify.simulator.csr_graph import merged

NEVER_ENDS: Final = "the schedule cannot run to its end"
SEE_THE_CYCLE: Final = "verify it to see the cycle"


@dataclass
class JointStep:
    """Steps of several ranks (or one overlapped step of one rank) that start as one.

    Attributes
    ----------
    steps
        By rank, the operations of its step.
    arrived
        By rank that has come to its step, the tick at which it did; the sweep fills this in.
    start
        The tick at which all of them start; None until every rank has come and every input is there.
    """

    steps: dict[int, tuple[Op, ...]]
    arrived: dict[int, int] = field(default_factory=dict)
    start: int | None = None

    @property
    def words(self) -> set[int]:
        """The packed operations of all steps."""
        return {op.pack() for ops in self.steps.values() for op in ops}


def joint_steps_of(schedule: Schedule, problem: Problem) -> tuple[list[JointStep], list[dict[int, int]]]:
    """Return the joint steps of a schedule, and by rank which operation (by index) begins a part of which.

    Raises
    ------
    ScheduleError
        If two steps of one rank would have to start as one: where an overlapped pair of another rank joins them.
    """
    shared = np.zeros(INDEX_MASK + 1, dtype=bool)
    shared[[stage for stage, ranks in enumerate(problem.placement) if len(ranks) > 1]] = True
    steps = [(rank, index, words) for rank, row in enumerate(schedule.rows) for index, words in _joint_in(row, shared)]
    groups = _connected([words for _, _, words in steps])
    joint: list[JointStep] = []
    placed: list[dict[int, int]] = [{} for _ in schedule.rows]
    numbers: dict[int, int] = {}
    for (rank, index, words), group in zip(steps, groups.tolist(), strict=True):
        number = numbers.setdefault(group, len(joint))
        if number == len(joint):
            joint.append(JointStep({}))
        if rank in joint[number].steps:
            both = [other for other, known in placed[rank].items() if known == number] + [index]
            first, second = positions(schedule.rows[rank])[both].tolist()
            text = f"rank {rank} would have to start positions {first} and {second} as one step"
            raise ScheduleError(f"{NEVER_ENDS}: {text}; {SEE_THE_CYCLE}")
        joint[number].steps[rank] = tuple(map(unpack, words))
        placed[rank][index] = number
    return joint, placed


def _joint_in(row: Words, shared: Flags) -> list[tuple[int, tuple[int, ...]]]:
    """Return index and operations (packed, joins taken off) of the steps of a row that are joint."""
    chosen = shared[op_stages(row)] | (row >> JOIN_SHIFT != 0)
    if not chosen.any():
        return []
    bounds = step_bounds(row)
    joint = np.flatnonzero(np.logical_or.reduceat(chosen, bounds[:-1]))
    runs = zip(bounds[joint].tolist(), bounds[joint + 1].tolist(), strict=True)
    return [(first, tuple((row[first:end] & OPERATION_MASK).tolist())) for first, end in runs]


def _connected(steps: list[tuple[int, ...]]) -> IntArray:
    """Return for each step the number of its group: steps that share an operation are in one group."""
    owner: dict[int, int] = {}
    pairs = [(owner.setdefault(word, step), step) for step, words in enumerate(steps) for word in words]
    return merged(len(steps), pairs)
