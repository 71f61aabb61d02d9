"""Faults of sends and receives, alone and in groups."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import combinations, product

from schedverify.core.op import Join, Kind, Op, Step
from schedverify.core.problem import Problem
from schedverify.testing.planting import Planted, Row, Rows, alone, dropped, inserted, moved, place_of, swapped


def faults_of_messages(rows: Rows, rank: int, position: int, problem: Problem | None) -> Iterator[Planted]:
    """Yield what can be done to a send or receive that stands alone."""
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
    if problem is not None and (others := [r for r in problem.placement[op.stage] if r != rank]):
        changed = {rank: dropped(row, position), others[0]: [*rows[others[0]], step]}
        yield Planted("on a rank that neither sends nor receives", "SV102", changed)


def faults_of_waits(rows: Rows, rank: int, position: int, problem: Problem | None) -> Iterator[Planted]:
    """Yield what can be done to a wait for a send."""
    row, step = rows[rank], rows[rank][position]
    op = step.ops[0]
    send = op._replace(kind=Kind.SEND_F if op.kind is Kind.WAIT_SEND_F else Kind.SEND_B)
    yield Planted("waited for twice", "SV303", {rank: inserted(row, position, step)})
    at = place_of(row, send)
    if at is not None and at < position:
        yield Planted("waited for before it is sent", "SV303", {rank: moved(row, position, at)})
    if problem is not None and problem.outstanding_sends is not None:
        sends = sum(other.kind.is_send for line in row for other in line.ops)
        unawaited = [line for line in row if not line.ops[0].kind.is_send_wait]
        if sends > problem.outstanding_sends[rank]:
            yield Planted("never waited for", "SV404", {rank: unawaited})


def faults_of_groups(rows: Rows, rank: int, position: int, problem: Problem | None) -> Iterator[Planted]:
    """Yield what can be done to a group of sends and receives."""
    row, ops = rows[rank], rows[rank][position].ops
    yield Planted("member dropped", "SV301", {rank: _with(row, position, ops[1:])})
    for first, second in combinations(range(len(ops)), 2):
        if ops[first]._replace(microbatch=None) == ops[second]._replace(microbatch=None):
            crossed = list(ops)
            crossed[first], crossed[second] = ops[second], ops[first]
            yield Planted("members crossed", "SV302", {rank: _with(row, position, crossed)})
            break
    if position and (before := row[position - 1]).ops[0].kind.is_compute:
        joined = _with(row, position, (*before.ops, *ops))
        yield Planted("computed within a group", "SV101", {rank: dropped(joined, position - 1)})
    made = [place for op in ops if op.kind.is_send and (place := _maker(row, op)) is not None]
    if made and max(made) < position:
        yield Planted("group before what it sends is made", "SV303", {rank: moved(row, position, max(made))})
    if problem is not None:
        yield from _one_after_another(rows, rank, position, problem)


def _with(row: Row, position: int, ops: Sequence[Op]) -> Row:
    """Return a row with other members in a group; one that is left alone is no group."""
    step = Step(tuple(ops), Join.GROUP if len(ops) > 1 else Join.BEGIN)
    return [*row[:position], step, *row[position + 1 :]]


def _maker(row: Row, op: Op) -> int | None:
    """Return the position of the step that makes what an operation sends."""
    kinds = (Kind.F,) if op.kind is Kind.SEND_F else (Kind.B, Kind.I)
    return place_of(row, *(Op(kind, op.stage, op.microbatch) for kind in kinds))


def _one_after_another(rows: Rows, rank: int, position: int, problem: Problem) -> Iterator[Planted]:
    """Take a group apart, so that two ranks which send to each other begin with different messages.

    Where the two messages are in one group at the other end too, that is taken apart as well, and each sends first.
    """
    ops = rows[rank][position].ops
    for sent, received in product(ops, ops):
        if not sent.kind.is_send or received.kind.is_send:
            continue
        far, near = (_place_of(rows, _other_end(op, problem), problem) for op in (sent, received))
        if far is None or near is None or far[0] != near[0]:
            continue
        changed = {rank: _taken_apart(rows[rank], position, sends_first=far >= near)}
        if far == near:
            changed[far[0]] = _taken_apart(rows[far[0]], far[1], sends_first=True)
        yield Planted("opposite members one after another", "SV304", changed)
        return


def _taken_apart(row: Row, position: int, *, sends_first: bool) -> Row:
    ops = sorted(row[position].ops, key=lambda op: op.kind.is_send != sends_first)
    return [*row[:position], *(Step((op,)) for op in ops), *row[position + 1 :]]


def _place_of(rows: Rows, end: Op, problem: Problem) -> tuple[int, int] | None:
    """Return where one end of a message stands."""
    rank = problem.owner_rank[end.stage]
    for position, step in enumerate(rows[rank]):
        if any(op.kind is end.kind and op._replace(peer=peer_of(op, problem)) == end for op in step.ops):
            return rank, position
    return None


def _other_end(op: Op, problem: Problem) -> Op:
    """Return the receive of a send, or the send of a receive, with its peer named."""
    kind = {Kind.SEND_F: Kind.RECV_F, Kind.RECV_F: Kind.SEND_F, Kind.SEND_B: Kind.RECV_B, Kind.RECV_B: Kind.SEND_B}
    return Op(kind[op.kind], peer_of(op, problem), op.microbatch, op.stage)


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
    own, home = _declared(op, problem), problem.owner_rank[peer_of(op, problem)]
    for other in range(position + 1, len(row)):
        found = row[other].ops[0]
        if len(row[other].ops) > 1 or not found.kind.is_transfer or found.kind.is_send != op.kind.is_send:
            continue
        tensors = _declared(found, problem)
        if problem.owner_rank[peer_of(found, problem)] == home and own and tensors and own != tensors:
            yield Planted("messages of two shapes crossed", "SV306", {rank: swapped(row, position, other)})
            return


def _declared(op: Op, problem: Problem) -> list[tuple[object, ...]]:
    """Return the tensors that the boundary of a message declares; a gradient has that of its activation."""
    ends = (op.stage, peer_of(op, problem)) if _is_source(op) else (peer_of(op, problem), op.stage)
    edge = tuple(stage % problem.stages for stage in ends)
    return [(row.shape, row.dtype, row.bytes) for row in problem.boundaries if (row.source, row.target) == edge]


def peer_of(op: Op, problem: Problem) -> int:
    """Return the stage at the other end; where it is not named, it is the only one on another rank."""
    neighbours = (problem.successors if _is_source(op) else problem.predecessors)[op.stage]
    home = problem.owner_rank
    return next(s for s in neighbours if home[s] != home[op.stage]) if op.peer is None else op.peer


def _is_source(op: Op) -> bool:
    """Whether the stage feeds the other one: it sends an activation to it, or receives a gradient from it."""
    return op.kind in (Kind.SEND_F, Kind.RECV_B)
