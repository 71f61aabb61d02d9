"""Faults of single operations: compute, sends and receives, and those that gather parameters and reduce gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from schedverify.core.op import Join, Kind, Op, Step
from schedverify.core.problem import Problem
from schedverify.testing.planting import Planted, Row, Rows, alone, dropped, inserted, moved, place_of, swapped

_LACKED: Final = {"fused": Kind.W, "inference": Kind.B}
"""By form, a kind that it lacks."""


def faults_of_orders(rows: Rows, rank: int, position: int, problem: Problem | None) -> Iterator[Planted]:
    """Yield what can be done to a compute step."""
    row, step = rows[rank], rows[rank][position]
    op = step.ops[0]
    yield Planted("dropped", "SV103", {r: [other for other in line if other != step] for r, line in enumerate(rows)})
    yield Planted("doubled", "SV104", {rank: inserted(row, position, step)})
    yield from _ill_formed(rows, rank, position, problem)
    others = [r for r, line in enumerate(rows) if all(o.stage != op.stage for s in line for o in s.ops)]
    if others:
        yield Planted("on another rank", "SV102", {rank: dropped(row, position), others[0]: [*rows[others[0]], step]})
    if op.kind in (Kind.I, Kind.W):
        whole = alone(Kind.B, op.stage, op.microbatch)
        yield Planted("full backward beside its parts", "SV104", {rank: inserted(row, position + 1, whole)})
    forward = alone(Kind.F, op.stage, op.microbatch)
    if op.kind is not Kind.F and forward in row:
        yield Planted("before its forward", "SV201", {rank: swapped(row, position, row.index(forward))})
    if problem is not None and op.kind in (Kind.B, Kind.I):
        yield from _two_ranks_waiting(rows, rank, position, problem)


def _ill_formed(rows: Rows, rank: int, position: int, problem: Problem | None) -> Iterator[Planted]:
    row, step = rows[rank], rows[rank][position]
    op = step.ops[0]
    last = max(other.microbatch or 0 for line in rows for found in line for other in found.ops)
    foreign = alone(op.kind, op.stage, last + 1)
    yield Planted("micro-batch that is none", "SV101", {rank: inserted(row, position + 1, foreign)})
    following = row[position + 1].ops if position + 1 < len(row) else ()
    if op.kind is Kind.F and [other.kind for other in following] == [Kind.F]:
        both = Step((op, *following), Join.OVERLAP)
        yield Planted("two forwards overlapped", "SV101", {rank: [*row[:position], both, *row[position + 2 :]]})
    if problem is not None and problem.form in _LACKED:
        lacked = alone(_LACKED[problem.form], op.stage, op.microbatch)
        yield Planted("kind that the form lacks", "SV101", {rank: inserted(row, position + 1, lacked)})


def _two_ranks_waiting(rows: Rows, rank: int, position: int, problem: Problem) -> Iterator[Planted]:
    """Move a backward before a forward whose next stage, on another rank, runs it before that backward."""
    row, op = rows[rank], rows[rank][position].ops[0]
    own = place_of(row, Op(Kind.F, op.stage, op.microbatch))
    for after in problem.successors[op.stage]:
        peer = rows[problem.owner_rank[after]]
        until = place_of(peer, Op(Kind.B, after, op.microbatch), Op(Kind.I, after, op.microbatch))
        if problem.owner_rank[after] == rank or until is None or own is None:
            continue
        first = [other for step in peer[:until] for other in step.ops if other[:2] == (Kind.F, after)]
        forwards = {Op(Kind.F, op.stage, other.microbatch) for other in first}
        waiting = [p for p in range(own + 1, position) if forwards.intersection(row[p].ops)]
        if waiting:
            yield Planted("before what the next rank wants first", "SV201", {rank: moved(row, position, waiting[-1])})
            return


def faults_of_parameters(rows: Rows, rank: int, position: int) -> Iterator[Planted]:
    """Yield what can be done to an UNSHARD, RESHARD, REDUCE_GRAD or the wait for one."""
    row, step = rows[rank], rows[rank][position]
    kind, stage = step.ops[0].kind, step.ops[0].stage
    name = {Kind.UNSHARD: "gathered", Kind.RESHARD: "freed", Kind.REDUCE_GRAD: "reduced"}.get(kind, "waited for")
    yield Planted(f"{name} twice", "SV305", {rank: inserted(row, position, step)})
    others = (other for line in rows for other in line if other != step)
    if kind in (Kind.UNSHARD, Kind.RESHARD) or any(other.ops[0].kind is kind for other in others):
        yield Planted(f"never {name}", "SV305", {rank: dropped(row, position)})
    last = {Kind.REDUCE_GRAD: (Kind.B, Kind.W), Kind.WAIT_REDUCE_GRAD: (Kind.REDUCE_GRAD,)}
    ends = last.get(kind, (Kind.F, Kind.B, Kind.I, Kind.W))
    uses = [p for p in range(position) if any(o.stage == stage and o.kind in ends for o in row[p].ops)]
    if uses and kind is not Kind.UNSHARD:
        yield Planted(f"{name} too early", "SV305", {rank: moved(row, position, uses[-1])})


def faults_of_waits(rows: Rows, rank: int, position: int) -> Iterator[Planted]:
    """Yield what can be done to a wait for a send."""
    row, step = rows[rank], rows[rank][position]
    op = step.ops[0]
    sends = Kind.SEND_B if op.kind is Kind.WAIT_SEND_B else Kind.SEND_F
    yield Planted("sent once, waited for twice", "SV303", {rank: inserted(row, position, step)})
    sent = [p for p in range(position) if op._replace(kind=sends) in row[p].ops]
    if sent:
        yield Planted("waited for before it is sent", "SV303", {rank: moved(row, position, sent[0])})


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
