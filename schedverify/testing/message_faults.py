"""Faults of sends and receives."""

from __future__ import annotations

from collections.abc import Iterator

from schedverify.core.op import Kind, Op, Step
from schedverify.core.problem import Problem
from schedverify.testing.planting import Planted, Row, Rows, alone, dropped, inserted, moved, swapped


def faults_of_messages(rows: Rows, rank: int, position: int, problem: Problem | None) -> Iterator[Planted]:
    """Yield what can be done to a send or receive."""
    row, step = rows[rank], rows[rank][position]
    op = step.ops[0]
    yield Planted("message dropped", "SV301", {rank: dropped(row, position)})
    yield Planted("message doubled", "SV301", {rank: inserted(row, position, step)})
    later = ((p, row[p].ops[0]) for p in range(position + 1, len(row)) if len(row[p].ops) == 1)
    crossed = next((p for p, other in later if other._replace(microbatch=op.microbatch) == op), None)
    if crossed is not None:
        yield Planted("messages crossed", "SV302", {rank: swapped(row, position, crossed)})
    forward = op.kind in (Kind.SEND_F, Kind.RECV_F)
    steps = [alone(kind, op.stage, op.microbatch) for kind in ((Kind.F,) if forward else (Kind.B, Kind.I))]
    partner = next((row.index(found) for found in steps if found in row), None)
    if partner is not None:
        fault = "sent before it is made" if op.kind.is_send else "received behind its reader"
        yield Planted(fault, "SV303", {rank: swapped(row, position, partner)})
    if op.kind is Kind.RECV_B:
        yield from _awaited_too_early(row, rank, position)
    if problem is not None and problem.boundaries:
        yield from _other_shapes(row, rank, position, problem)


def _awaited_too_early(row: Row, rank: int, position: int) -> Iterator[Planted]:
    """Move the receive of a gradient before the send of its activation, where it passes no other message but sends."""
    op = row[position].ops[0]
    send = Step((Op(Kind.SEND_F, op.stage, op.microbatch, op.peer),))
    if send in row[:position]:
        at = row.index(send)
        between = [other.kind for step in row[at:position] for other in step.ops]
        if not any(kind.is_transfer and not kind.is_send for kind in between):
            yield Planted("awaited before its cause is sent", "SV304", {rank: moved(row, position, at)})


def _other_shapes(row: Row, rank: int, position: int, problem: Problem) -> Iterator[Planted]:
    """Exchange a message with the next one of its channel for which another boundary declares other tensors."""
    op = row[position].ops[0]
    own, home = _declared(op, problem), problem.owner_rank[_peer(op, problem)]
    for other in range(position + 1, len(row)):
        found = row[other].ops[0]
        if len(row[other].ops) > 1 or not found.kind.is_transfer or found.kind.is_send != op.kind.is_send:
            continue
        tensors = _declared(found, problem)
        if problem.owner_rank[_peer(found, problem)] == home and own and tensors and own != tensors:
            yield Planted("messages of two shapes crossed", "SV306", {rank: swapped(row, position, other)})
            return


def _declared(op: Op, problem: Problem) -> list[tuple[object, ...]]:
    """Return the tensors that the boundary of a message declares; a gradient has that of its activation."""
    ends = (op.stage, _peer(op, problem)) if _is_source(op) else (_peer(op, problem), op.stage)
    edge = tuple(stage % problem.stages for stage in ends)
    return [(row.shape, row.dtype, row.bytes) for row in problem.boundaries if (row.source, row.target) == edge]


def _peer(op: Op, problem: Problem) -> int:
    """Return the stage at the other end; where it is not named, it is the only one."""
    neighbours = problem.successors if _is_source(op) else problem.predecessors
    return neighbours[op.stage][0] if op.peer is None else op.peer


def _is_source(op: Op) -> bool:
    """Whether the stage feeds the other one: it sends an activation to it, or receives a gradient from it."""
    return op.kind in (Kind.SEND_F, Kind.RECV_B)
