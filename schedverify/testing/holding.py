"""What an order holds, counted from the semantics alone, so that no property vouches for what it judges."""

from __future__ import annotations

from typing import Final

from schedverify.core.op import Kind, Op
from schedverify.core.problem import Problem
from schedverify.testing.planting import Row

_BACKWARD: Final = (Kind.B, Kind.I)


def exceeds_in_flight(row: Row, rank: int, problem: Problem) -> bool:
    """Whether more pairs are in flight than a limit of the rank, or of a stage on it, allows."""
    stages, of_stage = problem.stages_of[rank], problem.in_flight_stage
    if problem.in_flight is not None and _most_in_flight(row, stages, problem) > problem.in_flight[rank]:
        return True
    return of_stage is not None and any(_most_in_flight(row, (s,), problem) > of_stage[s] for s in stages)


def _most_in_flight(row: Row, stages: tuple[int, ...], problem: Problem) -> int:
    ends = (Kind.F,) if problem.form == "inference" else _BACKWARD
    held = most = 0
    for step in row:
        kinds = [op.kind for op in step.ops if op.stage in stages]
        held += kinds.count(Kind.F)
        most = max(most, held)
        held -= sum(map(kinds.count, ends))
    return most


def exceeds_capacity(row: Row, rank: int, problem: Problem) -> bool:
    """Whether a step holds more bytes than the capacity."""
    if problem.capacity is None:
        return False
    held = problem.static[rank]
    for step in row:
        held += sum(problem.kept[op.stage] for op in step.ops if op.kind is Kind.F)
        again = sum(problem.activation[op.stage] - problem.kept[op.stage] for op in step.ops if op.kind in _BACKWARD)
        if held + again > problem.capacity[rank]:
            return True
        held -= sum(_freed(op, problem) for op in step.ops)
    return False


def _freed(op: Op, problem: Problem) -> int:
    """Return what the end of an operation frees."""
    kept, stash = problem.kept[op.stage], problem.weight_stash[op.stage]
    by_forward = kept if problem.form == "inference" else 0
    return {Kind.F: by_forward, Kind.B: kept, Kind.I: kept - stash, Kind.W: stash}[op.kind]
