"""Limits of an order and their faults, counted from the semantics alone: no property vouches for what it judges."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Final

from schedverify.core.op import Kind, Op
from schedverify.core.problem import Problem
from schedverify.testing.planting import Planted, Row, Rows, moved

_BACKWARD: Final = (Kind.B, Kind.I)


def exceeds_in_flight(row: Row, rank: int, problem: Problem) -> bool:
    """Whether more pairs are in flight than a limit of the rank, or of a stage on it, allows."""
    stages, of_stage = problem.stages_of[rank], problem.in_flight_stage
    if problem.in_flight is not None and _most_in_flight(row, stages, problem) > problem.in_flight[rank]:
        return True
    return of_stage is not None and any(_most_in_flight(row, (s,), problem) > of_stage[s] for s in stages)


def _most_in_flight(row: Row, stages: tuple[int, ...], problem: Problem) -> int:
    ends = (Kind.F,) if problem.form == "inference" else _BACKWARD
    in_flight = most = 0
    for step in row:
        kinds = [op.kind for op in step.ops if op.stage in stages]
        in_flight += kinds.count(Kind.F)
        most = max(most, in_flight)
        in_flight -= sum(map(kinds.count, ends))
    return most


def exceeds_capacity(row: Row, rank: int, problem: Problem, *, recomputing: bool = True) -> bool:
    """Whether the live bytes of a step exceed the capacity of the rank, with what is recomputed or without it."""
    if problem.capacity is None:
        return False
    live_bytes = problem.static[rank]
    for step in row:
        live_bytes += sum(problem.saved_activation_bytes[op.stage] for op in step.ops if op.kind is Kind.F)
        again = sum(
            problem.activation[op.stage] - problem.saved_activation_bytes[op.stage]
            for op in step.ops
            if op.kind in _BACKWARD
        )
        if live_bytes + again * recomputing > problem.capacity[rank]:
            return True
        live_bytes -= sum(_freed(op, problem) for op in step.ops)
    return False


def _exceeds_by_recomputing(row: Row, rank: int, problem: Problem) -> bool:
    """Whether only what stages hold while they recompute exceeds the capacity."""
    kept = exceeds_capacity(row, rank, problem, recomputing=False)
    return not kept and exceeds_capacity(row, rank, problem)


def _freed(op: Op, problem: Problem) -> int:
    """Return the bytes that are freed at the end of an operation."""
    kept, stash = problem.saved_activation_bytes[op.stage], problem.weight_stash[op.stage]
    by_forward = kept if problem.form == "inference" else 0
    return {Kind.F: by_forward, Kind.B: kept, Kind.I: kept - stash, Kind.W: stash}[op.kind]


def faults_of_limits(rows: Rows, rank: int, position: int, problem: Problem) -> Iterator[Planted]:
    """Yield what can be done to a compute step of a valid order, so that it is the first or last too many."""
    row = rows[rank]
    kind = row[position].ops[0].kind
    if any(op.kind.is_transfer for step in row for op in step.ops):
        return
    if kind in _BACKWARD:
        ahead = _running_ahead(row, position)
        for what, code, exceeds in (
            ("limit", "SV401", exceeds_in_flight),
            ("capacity", "SV402", partial(exceeds_capacity, recomputing=False)),
            ("capacity for what is recomputed", "SV402", _exceeds_by_recomputing),
        ):
            excess = next((order for order in ahead if exceeds(order, rank, problem)), None)
            if excess is not None:
                yield Planted(f"forwards ahead of the {what}", code, {rank: excess})
    if kind is Kind.W:
        late = _put_off(row, position)
        if exceeds_capacity(late, rank, problem):
            yield Planted("weight gradients put off", "SV402", {rank: late})


def _running_ahead(row: Row, position: int) -> list[Row]:
    """Return the orders in which the next one, two, ... forwards behind a step stand before it."""
    behind = [p for p in range(position + 1, len(row)) if [op.kind for op in row[p].ops] == [Kind.F]]
    orders = [row]
    for number, p in enumerate(behind):
        orders.append(moved(orders[-1], p, position + number))
    return orders[1:]


def _put_off(row: Row, position: int) -> Row:
    """Return the order with this weight gradient and all behind it at the end."""
    late = [p for p in range(position, len(row)) if [op.kind for op in row[p].ops] == [Kind.W]]
    return [step for p, step in enumerate(row) if p not in late] + [row[p] for p in late]
