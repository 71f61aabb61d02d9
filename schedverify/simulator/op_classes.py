"""The operations of a problem as the simulator sees them: that a schedule has just these, and what each class reads.

A class is a kind and a stage: its operations differ in the micro-batch only, so they share their inputs, their cost
and where their outputs stand. With M micro-batches and S stages the output of F of stage s and micro-batch m stands at
``s·M+m``, the gradient that B or I makes at ``(S+s)·M+m``, and behind them are M places for W, which nobody reads.
"""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING

import numpy as np

from schedverify.core.errors import ScheduleError
from schedverify.core.op import INDEX_MASK, JOIN_SHIFT, MICROBATCH_MASK, PEER_SHIFT, STAGE_SHIFT, Join, Kind, unpack
from schedverify.core.problem import Problem
from schedverify.core.schedule import OPERATION_MASK, Flags, IntArray, Schedule, Words, kinds, op_stages
from schedverify.simulator.joint_steps import NEVER_ENDS, SEE_THE_CYCLE

if TYPE_CHECKING:
    from schedverify.simulator import kernels

MOST_PLACES, FEW_PLACES = 16, 1_000_000
"""Places for each operation, and places in any case, up to which arrays have one for each operation of a problem."""
_F, _W = int(Kind.F), int(Kind.W)


def check_runnable(schedule: Schedule, problem: Problem, excerpt: bool) -> None:
    """Raise a ScheduleError unless each operation of the problem stands once on each rank of its stage, and no other.

    With ``excerpt`` operations may be absent.
    """
    if schedule.ranks != problem.ranks:
        raise ScheduleError(f"the schedule has {schedule.ranks} ranks, the problem {problem.ranks}")
    for rank, row in enumerate(schedule.rows):
        if not len(row) and not problem.stages_of[rank]:
            continue
        strangers = _strangers(row, problem, rank)
        if strangers.any():
            op = unpack(int(row[int(strangers.argmax())]))
            raise ScheduleError(f"{op} on rank {rank} is no operation of this problem there; verify says more")
        if is_dense(len(row), 4 * len(problem.stages_of[rank]) * problem.microbatches):
            complete = _counted(row, problem, rank)
        else:
            complete = _sorted(row, problem, rank)
        if not excerpt:
            _check_complete(complete, problem, rank)


def places_of(problem: Problem) -> int:
    """Return how many places for outputs there are; see the head of this module."""
    return (2 * problem.total_stages + 1) * problem.microbatches


def is_dense(operations: int, places: int) -> bool:
    """Whether so many operations are worth an array of so many places, one for each that the problem could have."""
    return places <= MOST_PLACES * operations + FEW_PLACES


def _strangers(row: Words, problem: Problem, rank: int) -> Flags:
    """Mark the operations of a row that cannot stand there."""
    on_rank = np.zeros(INDEX_MASK + 1, dtype=bool)
    on_rank[list(problem.stages_of[rank])] = True
    fits = problem.has_operations(row) & (kinds(row) <= _W) & on_rank[op_stages(row)]
    return np.asarray(~fits | (row >> JOIN_SHIFT == int(Join.GROUP)))


def _counted(row: Words, problem: Problem, rank: int) -> IntArray:
    """Return the pairs (stage and micro-batch, packed) of which all that is needed stands in a row, in rising order.

    Raise a ScheduleError where an operation stands twice, or a B beside an I or W. See :func:`_sorted`.
    """
    stages, size = np.array(problem.stages_of[rank], dtype=np.int64), problem.microbatches
    flat = (np.searchsorted(stages, op_stages(row)) * 4 + kinds(row)) * size + (row & MICROBATCH_MASK)
    counts = np.bincount(flat, minlength=len(stages) * 4 * size).reshape(len(stages), 4, size)
    twice = (counts > 1).any(axis=1) | (counts[:, 1] + np.maximum(counts[:, 2], counts[:, 3]) > 1)
    if twice.any():
        index, m = np.unravel_index(int(twice.argmax()), twice.shape)
        raise _twice(rank, int(stages[index]), int(m))
    complete = counts[:, 0] > 0
    if problem.form != "inference":
        complete &= (counts[:, 1] > 0) | (counts[:, 2] > 0) & (counts[:, 3] > 0)
    local, microbatch = np.nonzero(complete)
    return np.asarray(stages[local] << STAGE_SHIFT | microbatch)


def _sorted(row: Words, problem: Problem, rank: int) -> IntArray:
    """Do what :func:`_counted` does, for a row with few of the operations that the problem could have."""
    ops = np.sort(row & OPERATION_MASK)
    forward, full, inputs, weights = (ops[kinds(ops) == kind] & (1 << PEER_SHIFT) - 1 for kind in range(_W + 1))
    again = np.append(ops[1:][ops[1:] == ops[:-1]], np.intersect1d(full, np.append(inputs, weights)))
    if len(again):
        raise _twice(rank, int(op_stages(again)[0]), int(again[0]) & MICROBATCH_MASK)
    return (
        forward
        if problem.form == "inference"
        else np.intersect1d(forward, np.append(full, np.intersect1d(inputs, weights)))
    )


def _twice(rank: int, stage: int, m: int) -> ScheduleError:
    return ScheduleError(f"rank {rank} runs an operation of stage {stage}, micro-batch {m} twice; verify says more")


def _check_complete(complete: IntArray, problem: Problem, rank: int) -> None:
    """Raise a ScheduleError where a pair of a rank's stages is not among those that are complete."""
    needed = sum(problem.microbatch_counts[stage] for stage in problem.stages_of[rank])
    if len(complete) == needed:
        return
    stages = op_stages(complete)
    counts = np.bincount(stages, minlength=problem.total_stages).tolist()
    for stage in problem.stages_of[rank]:
        if counts[stage] < problem.microbatch_counts[stage]:
            found = (complete[stages == stage] & MICROBATCH_MASK).tolist()
            passing = (m for m in range(problem.microbatches) if problem.passes(stage, m))
            m = next(m for m, there in zip(passing, [*found, -1], strict=False) if m != there)
            raise ScheduleError(f"stage {stage} lacks operations of micro-batch {m} on rank {rank}; verify says more")


def check_ended(done: list[int], steps: list[int]) -> None:
    """Raise where a rank has not come to the end of its steps."""
    for rank, (reached, count) in enumerate(zip(done, steps, strict=True)):
        if reached < count:
            raise ScheduleError(f"{NEVER_ENDS}: rank {rank} waits at position {reached} for ever; {SEE_THE_CYCLE}")


def describe_class(key: int, problem: Problem) -> tuple[tuple[tuple[int, int], ...], int, int]:
    """Return the inputs (place of micro-batch 0 among the outputs, lag) of a class, its cost, and its own such place.

    The key of a class is kind, stage (from bit 1 on, kind from bit 33) and, in bit 0, whether it reads the part beside.
    """
    beside, stage, kind = key & 1, key >> 1 & INDEX_MASK, key >> 33
    count = problem.microbatches
    forward, backward = stage * count, (problem.total_stages + stage) * count
    if kind == _W:
        return ((backward, 0),), problem.duration(kind, stage), 2 * problem.total_stages * count
    if kind == _F:
        inputs = [(before * count, problem.forward_lag(before, stage)) for before in problem.predecessors[stage]]
        inputs += [(forward - 1, 0)] if beside else []
        return tuple(inputs), problem.duration(kind, stage), forward
    after = problem.successors[stage]
    inputs = [((problem.total_stages + t) * count, problem.backward_lag(t, stage)) for t in after]
    inputs += [(backward + 1, 0)] if beside else []
    return ((forward, 0), *inputs), problem.duration(kind, stage), backward


def class_table(problem: Problem) -> kernels.OpClassTable:
    """Return what every class of single operations reads, costs and makes, as arrays for the compiled sweep."""
    from schedverify.simulator import kernels

    every = product(range(_W + 1), range(problem.total_stages), (0, 1) if problem.slices > 1 else (0, 0))
    keys = [kind << 33 | stage << 1 | beside for kind, stage, beside in every]
    known = {int(Kind[letter]) for letter in problem.kinds}
    classes = [describe_class(key, problem) if key >> 33 in known else ((), 0, 0) for key in keys]
    inputs = np.array([pair for reads, _, _ in classes for pair in reads], dtype=np.int64).reshape(-1, 2)
    return kernels.OpClassTable(
        np.array([cost for _, cost, _ in classes], dtype=np.int64),
        np.array([output for _, _, output in classes], dtype=np.int64),
        np.cumsum([0, *(len(reads) for reads, _, _ in classes)]),
        inputs[:, 0].copy(),
        inputs[:, 1].copy(),
        problem.total_stages,
        problem.slices,
    )
