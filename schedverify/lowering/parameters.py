"""Puts in when a rank reduces the gradients of its stages, and when it waits for that.

Source: PyTorch's ``torch.distributed.pipelining``, whose actions REDUCE_GRAD and, from 2.15 on, WAIT_REDUCE_GRAD
these are.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InputError
from schedverify.core.op import KIND_SHIFT, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words, check_ranks, kinds, op_stages, positions, step_bounds

_W = int(Kind.W)


def add_reduction(schedule: Schedule, problem: Problem) -> Schedule:
    """Return the schedule with one REDUCE_GRAD for each stage on each of its ranks, right after its last B or W.

    That of a stage without any, such as one of a copy of the model that no micro-batch goes through, stands at the end:
    the other copies wait for its part of the sum. In inference there are no gradients, and nothing is added.

    Raises
    ------
    InputError
        If REDUCE_GRAD stands in the schedule already, or it has other rows than one for each rank.
    """
    check_types("add_reduction", schedule=(schedule, Schedule), problem=(problem, Problem))
    check_ranks(schedule, problem.ranks)
    refuse(schedule, Kind.REDUCE_GRAD)
    if problem.form == "inference":
        return schedule
    return Schedule(_reduced(row, stages) for row, stages in zip(schedule.rows, problem.stages_of, strict=True))


def add_reduction_waits(schedule: Schedule, *, late: bool = False) -> Schedule:
    """Return the schedule with a WAIT_REDUCE_GRAD for each REDUCE_GRAD, so that a rank has one pending at most.

    Parameters
    ----------
    late
        Whether each stands before the next REDUCE_GRAD of its rank, or at the end, so that reductions overlap with what
        computes; by default right behind its own, as PyTorch has it.

    Raises
    ------
    InputError
        If WAIT_REDUCE_GRAD stands in the schedule already.
    """
    check_types("add_reduction_waits", schedule=(schedule, Schedule))
    refuse(schedule, Kind.WAIT_REDUCE_GRAD)
    return Schedule(_reduction_awaited(row, late) for row in schedule.rows)


def _reduction_awaited(row: Words, late: bool) -> Words:
    at = np.flatnonzero(kinds(row) == int(Kind.REDUCE_GRAD))
    behind = np.append(at[1:], len(row))[: len(at)] if late else at + 1
    return np.insert(row, behind, [packed(Kind.WAIT_REDUCE_GRAD, stage) for stage in op_stages(row[at]).tolist()])


def _reduced(row: Words, stages: Sequence[int]) -> Words:
    """Return a row with a reduction of each of these stages put in.

    It goes in where the step behind the last B or W of the stage begins, so that a step of several operations stays
    whole::

        index      0    1    2    3    4            begins  0 1 2 4 5    (3 belongs to the step at 2)
        row       0F0  1F0  1B0;0F1   0B0           last    1B0 at 2, 0B0 at 4
                                                    behind  4, 5
    """
    kind, stage = kinds(row), op_stages(row)
    ends = np.flatnonzero((kind == int(Kind.B)) | (kind == _W))
    last = dict(zip(stage[ends].tolist(), ends.tolist(), strict=True))
    begins = step_bounds(row)
    behind = begins[np.searchsorted(begins, [last.get(own, len(row) - 1) for own in stages], side="right")]
    order = np.argsort(behind, kind="stable")
    return np.insert(row, behind[order], [packed(Kind.REDUCE_GRAD, stages[i]) for i in order])


def packed(kind: Kind, stage: int) -> int:
    """Return an operation of a stage, packed."""
    return stage << STAGE_SHIFT | int(kind) << KIND_SHIFT


def refuse(schedule: Schedule, *unwanted: Kind) -> None:
    """Raise an InputError that names the first operation of these kinds in a schedule."""
    for rank, row in enumerate(schedule.rows):
        found = np.isin(kinds(row), [int(kind) for kind in unwanted])
        if found.any():
            index = int(found.argmax())
            text = f"{Kind(int(kinds(row)[index])).name} stands there already"
            raise InputError(Fault(f"rank {rank}, position {int(positions(row)[index])}", text, "take it out first"))
