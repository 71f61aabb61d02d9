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

    Faults are planted in plain compute steps: an operation dropped (SV103), doubled (SV104), of a micro-batch that the
    problem lacks (SV101), on a rank of another stage (SV102), or changed places with its own forward (SV201).
    """
    rows = [list(schedule.steps(rank)) for rank in range(schedule.ranks)]
    places = [(r, p) for r, row in enumerate(rows) for p, step in enumerate(row) if _plain(step)]
    return st.sampled_from(places).flatmap(lambda place: st.sampled_from(list(_planted(rows, *place))))


def _plain(step: Step) -> bool:
    return len(step.ops) == 1 and step.ops[0].kind < Kind.UNSHARD and not step.ops[0].kind.is_transfer


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
        swapped = list(row)
        swapped[position], swapped[row.index(forward)] = forward, step
        yield _with(rows, "before its forward", "SV201", {rank: swapped})


def _with(rows: Rows, fault: str, code: str, changed: dict[int, list[Step]]) -> Mutation:
    return Mutation(fault, code, Schedule.of(changed.get(rank, row) for rank, row in enumerate(rows)))
