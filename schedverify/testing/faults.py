"""One fault planted in a valid schedule, named by what it is and by the property that must object."""

from __future__ import annotations

from collections.abc import Iterator

from hypothesis import strategies as st

from schedverify.core.errors import Fault, InputError
from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.testing.limits import faults_of_limits
from schedverify.testing.operation_faults import (
    faults_of_messages,
    faults_of_orders,
    faults_of_parameters,
    faults_of_waits,
)
from schedverify.testing.planting import Mutation, Planted, Rows

Place = tuple[int, int]
"""A rank, and a position in its order."""


def mutations(schedule: Schedule, problem: Problem | None = None) -> st.SearchStrategy[Mutation]:
    """Draw a valid, complete schedule with one fault planted in it; examples shrink to the first place and fault.

    Faults are planted in steps of one operation. In compute: dropped (SV103), doubled or, where the backward is split,
    a full backward beside its parts (SV104), of a micro-batch that is none, or two forwards overlapped (SV101), on a
    rank of another stage (SV102), or changed places with its own forward (SV201). In communication: dropped or doubled
    (SV301), two messages of one channel crossed on one end (SV302), a send before what makes its tensor, or a receive
    behind what reads it (SV303), and a gradient awaited before its activation is sent, which is a deadlock from the
    discipline ``pair`` on (SV304). Of waits for sends: doubled, or before the send (SV303). Of UNSHARD, RESHARD,
    REDUCE_GRAD and the waits for it: one that lacks, is doubled, or comes too early (SV305).

    Parameters
    ----------
    problem
        What the schedule is for. With it come the faults that only it can tell: a kind that its form lacks (SV101); a
        backward before a forward that the next rank wants first, so that two ranks wait for each other (SV201);
        messages of two shapes crossed, where boundaries declare them (SV306); and, in compute orders, forwards that run
        ahead until a limit is exceeded (SV401, SV402), or weight gradients put off until the capacity is (SV402).

    Raises
    ------
    InputError
        If no step of the schedule is a single operation.
    """
    found = places(schedule)
    if not found:
        raise InputError(Fault("schedule", "no step is a single operation", "faults are planted in such steps"))
    rows = rows_of(schedule)
    faults = st.sampled_from(found).flatmap(lambda place: st.sampled_from(list(_planted(rows, place, problem))))
    return faults.map(lambda fault: fault.within(rows))


def places(schedule: Schedule) -> list[Place]:
    """Return where faults can be planted: at every step of one operation."""
    steps = ((rank, p, step) for rank, row in enumerate(rows_of(schedule)) for p, step in enumerate(row))
    return [(rank, position) for rank, position, step in steps if len(step.ops) == 1]


def faults_at(schedule: Schedule, place: Place, problem: Problem | None = None) -> Iterator[Mutation]:
    """Yield every fault that can be planted at a place."""
    rows = rows_of(schedule)
    return (fault.within(rows) for fault in _planted(rows, place, problem))


def rows_of(schedule: Schedule) -> Rows:
    """Return the steps of every rank."""
    return [list(schedule.steps(rank)) for rank in range(schedule.ranks)]


def _planted(rows: Rows, place: Place, problem: Problem | None) -> Iterator[Planted]:
    rank, position = place
    kind = rows[rank][position].ops[0].kind
    if kind.is_transfer:
        yield from faults_of_messages(rows, rank, position, problem)
    elif kind.is_send_wait:
        yield from faults_of_waits(rows, rank, position)
    elif kind >= Kind.UNSHARD:
        yield from faults_of_parameters(rows, rank, position)
    else:
        yield from faults_of_orders(rows, rank, position, problem)
        if problem is not None:
            yield from faults_of_limits(rows, rank, position, problem)
