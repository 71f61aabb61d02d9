"""Faults of limits: orders that hold more micro-batches, or more bytes, than the problem allows."""

from __future__ import annotations

from collections.abc import Iterator

from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.testing.holding import exceeds_capacity, exceeds_in_flight
from schedverify.testing.planting import Planted, Row, Rows


def faults_of_limits(rows: Rows, rank: int, position: int, problem: Problem) -> Iterator[Planted]:
    """Yield what can be done to a compute step of a valid order, so that it is the first or last too many."""
    row = rows[rank]
    kind = row[position].ops[0].kind
    if any(op.kind.is_transfer for step in row for op in step.ops):
        return
    if kind in (Kind.B, Kind.I):
        ahead = _running_ahead(row, position)
        excess = next((order for order in ahead if exceeds_in_flight(order, rank, problem)), None)
        if excess is not None:
            yield Planted("forwards ahead of the limit", "SV401", {rank: excess})
        excess = next((order for order in ahead if exceeds_capacity(order, rank, problem)), None)
        if excess is not None:
            yield Planted("forwards ahead of the capacity", "SV402", {rank: excess})
    if kind is Kind.W:
        late = _put_off(row, position)
        if exceeds_capacity(late, rank, problem):
            yield Planted("weight gradients put off", "SV402", {rank: late})


def _running_ahead(row: Row, position: int) -> list[Row]:
    """Return the orders in which the next one, two, ... forwards behind a step stand before it."""
    behind = [p for p in range(position + 1, len(row)) if [op.kind for op in row[p].ops] == [Kind.F]]
    orders = []
    for last in range(1, len(behind) + 1):
        ahead = behind[:last]
        rest = [step for p, step in enumerate(row) if p >= position and p not in ahead]
        orders.append([*row[:position], *(row[p] for p in ahead), *rest])
    return orders


def _put_off(row: Row, position: int) -> Row:
    """Return the order with this weight gradient and all behind it at the end."""
    late = [p for p in range(position, len(row)) if [op.kind for op in row[p].ops] == [Kind.W]]
    return [step for p, step in enumerate(row) if p not in late] + [row[p] for p in late]
