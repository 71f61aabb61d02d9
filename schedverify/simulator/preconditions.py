"""Whether a schedule has just the operations of a problem, each once and in its place: what a timeline needs."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schedverify.core.errors import ScheduleError
from schedverify.core.op import INDEX_MASK, JOIN_SHIFT, MICROBATCH_MASK, STAGE_SHIFT, Join, Kind, unpack
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words, kinds


def check_runnable(schedule: Schedule, problem: Problem, excerpt: bool) -> None:
    """Raise a ScheduleError unless each operation of the problem stands once on each rank of its stage, and no other.

    With ``excerpt`` operations may be absent.
    """
    if schedule.ranks != problem.ranks:
        raise ScheduleError(f"the schedule has {schedule.ranks} ranks, the problem {problem.ranks}")
    passing = problem.passing()
    for rank, row in enumerate(schedule.rows):
        strangers = _strangers(row, problem, rank)
        if strangers.any():
            op = unpack(int(row[int(strangers.argmax())]))
            raise ScheduleError(f"{op} on rank {rank} is no operation of this problem there; verify says more")
        counts = _counts(row, problem, rank)
        _check_counts(counts, problem, rank)
        lacking = passing[list(problem.stages_of[rank])] & ~_complete(counts, problem)
        if not excerpt and lacking.any():
            index, m = np.unravel_index(int(lacking.argmax()), lacking.shape)
            text = f"stage {problem.stages_of[rank][int(index)]} lacks operations of micro-batch {m} on rank {rank}"
            raise ScheduleError(f"{text}; verify says more")


def _strangers(row: Words, problem: Problem, rank: int) -> NDArray[np.bool_]:
    """Mark the operations of a row that cannot stand there."""
    on_rank = np.zeros(INDEX_MASK + 1, dtype=bool)
    on_rank[list(problem.stages_of[rank])] = True
    fits = problem.has_operations(row) & (kinds(row) <= int(Kind.W)) & on_rank[row >> STAGE_SHIFT & INDEX_MASK]
    return np.asarray(~fits | (row >> JOIN_SHIFT == int(Join.GROUP)))


def _counts(row: Words, problem: Problem, rank: int) -> NDArray[np.int64]:
    """Count the operations of a row by stage (in the rank's order of stages), kind and micro-batch."""
    stages, size = np.array(problem.stages_of[rank], dtype=np.int64), problem.microbatches
    local = np.searchsorted(stages, row >> STAGE_SHIFT & INDEX_MASK)
    flat = (local * 4 + kinds(row)) * size + (row & MICROBATCH_MASK)
    return np.bincount(flat, minlength=len(stages) * 4 * size).reshape(len(stages), 4, size)


def _check_counts(counts: NDArray[np.int64], problem: Problem, rank: int) -> None:
    full, split = counts[:, 1], np.maximum(counts[:, 2], counts[:, 3])
    twice = (counts > 1).any(axis=1) | (full + split > 1)
    if twice.any():
        index, m = np.unravel_index(int(twice.argmax()), twice.shape)
        stage = problem.stages_of[rank][int(index)]
        raise ScheduleError(f"rank {rank} runs an operation of stage {stage}, micro-batch {m} twice; verify says more")


def _complete(counts: NDArray[np.int64], problem: Problem) -> NDArray[np.bool_]:
    """Return by stage and micro-batch whether all that is needed stands."""
    forward = counts[:, 0] > 0
    if problem.form == "inference":
        return forward
    return forward & ((counts[:, 1] > 0) | (counts[:, 2] > 0) & (counts[:, 3] > 0))
