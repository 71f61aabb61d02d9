"""One fault planted in a valid schedule, named by what it is and by the property that must object."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from hypothesis import strategies as st

from schedverify.op import Kind, Op, Step
from schedverify.schedule import Schedule

Rows = list[list[Step]]


class Mutation(NamedTuple):
    """A schedule with one fault: ``fault`` says which, ``code`` is the property that it must violate."""

    fault: str
    code: str
    schedule: Schedule


def mutations(schedule: Schedule) -> st.SearchStrategy[Mutation]:
    """Draw a valid, complete schedule with one fault planted in it; examples shrink to the first place and fault.

    Faults are planted in steps of one operation. In compute: dropped (SV103), doubled (SV104), of a micro-batch that
    the problem lacks (SV101), on a rank of another stage (SV102), or changed places with its own forward (SV201). In
    communication: dropped or doubled (SV301), two messages of one channel crossed on one end (SV302), a send before
    what makes its tensor, or a receive behind what reads it (SV303), and a gradient awaited before its activation is
    sent, which is a deadlock from the discipline ``pair`` on (SV304).
    """
    rows = [list(schedule.steps(rank)) for rank in range(schedule.ranks)]
    places = [(r, p) for r, row in enumerate(rows) for p, step in enumerate(row) if _plain(step)]
    return st.sampled_from(places).flatmap(lambda place: st.sampled_from(list(_faults_at(rows, *place))))


def _plain(step: Step) -> bool:
    return len(step.ops) == 1 and step.ops[0].kind < Kind.UNSHARD


def _faults_at(rows: Rows, rank: int, position: int) -> Iterator[Mutation]:
    transfers = rows[rank][position].ops[0].kind.is_transfer
    return (_planted_in_transfer if transfers else _planted)(rows, rank, position)


def _planted(rows: Rows, rank: int, position: int) -> Iterator[Mutation]:
    row, step = rows[rank], rows[rank][position]
    op = step.ops[0]
    yield _with(rows, "dropped", "SV103", {rank: row[:position] + row[position + 1 :]})
    yield _with(rows, "doubled", "SV104", {rank: [*row[:position], step, *row[position:]]})
    last = max(other.microbatch or 0 for line in rows for step in line for other in step.ops)
    foreign = Step((Op(op.kind, op.stage, last + 1),))
    yield _with(
        rows, "micro-batch that is none", "SV101", {rank: [*row[: position + 1], foreign, *row[position + 1 :]]}
    )
    others = [r for r, line in enumerate(rows) if all(o.stage != op.stage for s in line for o in s.ops)]
    if others:
        moved = {rank: row[:position] + row[position + 1 :], others[0]: [*rows[others[0]], step]}
        yield _with(rows, "on another rank", "SV102", moved)
    forward = Step((Op(Kind.F, op.stage, op.microbatch),))
    if op.kind is not Kind.F and forward in row:
        yield _with(rows, "before its forward", "SV201", {rank: _swapped(row, position, row.index(forward))})


def _planted_in_transfer(rows: Rows, rank: int, position: int) -> Iterator[Mutation]:
    row, step = rows[rank], rows[rank][position]
    op = step.ops[0]
    yield _with(rows, "message dropped", "SV301", {rank: row[:position] + row[position + 1 :]})
    yield _with(rows, "message doubled", "SV301", {rank: [*row[:position], step, *row[position:]]})
    for other in range(position + 1, len(row)):
        later = row[other].ops[0]
        if _plain(row[other]) and later._replace(microbatch=op.microbatch) == op:
            yield _with(rows, "messages crossed", "SV302", {rank: _swapped(row, position, other)})
            break
    forward = op.kind in (Kind.SEND_F, Kind.RECV_F)
    steps = [Step((Op(kind, op.stage, op.microbatch),)) for kind in ((Kind.F,) if forward else (Kind.B, Kind.I))]
    partner = next((row.index(found) for found in steps if found in row), None)
    if partner is not None:
        fault = "sent before it is made" if op.kind.is_send else "received behind its reader"
        yield _with(rows, fault, "SV303", {rank: _swapped(row, position, partner)})
    if op.kind is Kind.RECV_B:
        yield from _awaited_too_early(rows, rank, position)


def _awaited_too_early(rows: Rows, rank: int, position: int) -> Iterator[Mutation]:
    """Move the receive of a gradient before the send of its activation, where it passes no other message but sends."""
    row, op = rows[rank], rows[rank][position].ops[0]
    send = Step((Op(Kind.SEND_F, op.stage, op.microbatch, op.peer),))
    if send in row[:position]:
        at = row.index(send)
        between = [other.kind for step in row[at:position] for other in step.ops]
        if not any(kind.is_transfer and not kind.is_send for kind in between):
            moved = [*row[:at], row[position], *row[at:position], *row[position + 1 :]]
            yield _with(rows, "awaited before its cause is sent", "SV304", {rank: moved})


def _swapped(row: list[Step], one: int, other: int) -> list[Step]:
    swapped = list(row)
    swapped[one], swapped[other] = row[other], row[one]
    return swapped


def _with(rows: Rows, fault: str, code: str, changed: dict[int, list[Step]]) -> Mutation:
    return Mutation(fault, code, Schedule.of(changed.get(rank, row) for rank, row in enumerate(rows)))
