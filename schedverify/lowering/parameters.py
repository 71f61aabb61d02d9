"""Puts in when a rank gathers and frees the parameters of its stages (FSDP), and when it reduces their gradients.

Source: PyTorch's ``torch.distributed.pipelining``, whose actions UNSHARD, RESHARD, REDUCE_GRAD and, from 2.15 on,
WAIT_REDUCE_GRAD these are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np

from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InputError, ScheduleError
from schedverify.core.op import KIND_SHIFT, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words, check_ranks, kinds, op_stages, positions, step_bounds

_W = int(Kind.W)
_NEVER = 1 << 62


def add_sharding(schedule: Schedule, problem: Problem, *, most: int | None = None) -> Schedule:
    """Return the schedule with an UNSHARD before the uses of each stage on each rank, and a RESHARD after them.

    A stage stays gathered from its first use to its last, or, where only so many may be gathered, until its place is
    needed: of the stages that are gathered, the one whose next use is farthest away goes.

    Parameters
    ----------
    most
        How many stages of a rank may be gathered at once; by default the problem's ``limits.unsharded``.

    Raises
    ------
    ScheduleError
        If one step uses more stages than may be gathered.
    InputError
        If UNSHARD or RESHARD stand in the schedule already, or it has other rows than one for each rank.
    """
    check_types("add_sharding", schedule=(schedule, Schedule), problem=(problem, Problem))
    check_ranks(schedule, problem.ranks)
    _refuse(schedule, Kind.UNSHARD, Kind.RESHARD)
    limits = problem.unsharded if most is None else (most,) * schedule.ranks
    limits = limits or (problem.total_stages,) * schedule.ranks
    return Schedule(_sharded(row, rank, limits[rank]) for rank, row in enumerate(schedule.rows))


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
    _refuse(schedule, Kind.REDUCE_GRAD)
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
    _refuse(schedule, Kind.WAIT_REDUCE_GRAD)
    return Schedule(_reduction_awaited(row, late) for row in schedule.rows)


def _reduction_awaited(row: Words, late: bool) -> Words:
    at = np.flatnonzero(kinds(row) == int(Kind.REDUCE_GRAD))
    behind = np.append(at[1:], len(row))[: len(at)] if late else at + 1
    return np.insert(row, behind, [_packed(Kind.WAIT_REDUCE_GRAD, stage) for stage in op_stages(row[at]).tolist()])


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
    return np.insert(row, behind[order], [_packed(Kind.REDUCE_GRAD, stages[i]) for i in order])


def _sharded(row: Words, rank: int, most: int) -> Iterator[int]:
    """Yield the operations of a row with UNSHARD and RESHARD put in, at most so many stages gathered at once."""
    steps, next_use = _uses(row)
    gathered: dict[int, int] = {}  # by stage that is gathered, the step that uses it next
    for number, (words, stages) in enumerate(steps):
        if len(stages) > most:
            raise ScheduleError(f"a step of rank {rank} uses {len(stages)} stages, {most} may be gathered at once")
        for stage in stages:
            if stage not in gathered:
                if len(gathered) >= most:
                    farthest = max((s for s in gathered if s not in stages), key=lambda s: (gathered[s], s))
                    del gathered[farthest]
                    yield _packed(Kind.RESHARD, farthest)
                gathered[stage] = number
                yield _packed(Kind.UNSHARD, stage)
        yield from words
        for stage in stages:
            gathered[stage] = next_use[number, stage]
            if gathered[stage] == _NEVER:
                del gathered[stage]
                yield _packed(Kind.RESHARD, stage)


def _uses(row: Words) -> tuple[list[tuple[list[int], list[int]]], dict[tuple[int, int], int]]:
    """Return the words of each step with the stages that it uses, and by step and stage the step that uses it next."""
    computes, stage = kinds(row) <= _W, op_stages(row)
    words, used = row.tolist(), np.where(computes, stage, -1).tolist()
    bounds = step_bounds(row).tolist()
    steps = [(words[first:last], sorted(set(used[first:last]) - {-1})) for first, last in pairwise(bounds)]
    later: dict[int, int] = {}
    next_use = {}
    for number in reversed(range(len(steps))):
        for used_stage in steps[number][1]:
            next_use[number, used_stage] = later.get(used_stage, _NEVER)
            later[used_stage] = number
    return steps, next_use


def _packed(kind: Kind, stage: int) -> int:
    return stage << STAGE_SHIFT | int(kind) << KIND_SHIFT


def _refuse(schedule: Schedule, *unwanted: Kind) -> None:
    """Raise an InputError that names the first operation of these kinds in a schedule."""
    for rank, row in enumerate(schedule.rows):
        found = np.isin(kinds(row), [int(kind) for kind in unwanted])
        if found.any():
            index = int(found.argmax())
            text = f"{Kind(int(kinds(row)[index])).name} stands there already"
            raise InputError(Fault(f"rank {rank}, position {int(positions(row)[index])}", text, "take it out first"))
