"""One fault planted in a valid schedule, named by what it is and by the property that must object."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from typing import Final

from hypothesis import strategies as st

from schedverify.core.errors import Fault, InputError
from schedverify.core.op import Join, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.testing.choices import number_for
from schedverify.testing.limits import faults_of_limits
from schedverify.testing.message_faults import faults_of_groups, faults_of_messages, faults_of_waits
from schedverify.testing.order_faults import faults_of_orders
from schedverify.testing.parameter_faults import faults_of_parameters
from schedverify.testing.planting import Mutation, Planted, Rows

Place = tuple[int, int]
"""A rank, and a position in its order."""


FAULTS: Final = (
    "two ranks at odds", "on some of its ranks only", "on a rank that neither sends nor receives",
    "before the part that it reads", "forwards ahead of the capacity for what is recomputed",
    "tied stages reduced as one", "reduced too early", "freed too early", "gathered twice", "never gathered",
    "freed twice", "never freed", "reduced twice", "never reduced",
    "gathered ahead of the limit", "never waited for", "waited for before it is sent", "waited for twice",
    "reduction awaited twice", "reduction never awaited", "reduction awaited before it begins",
    "opposite members one after another", "members crossed", "group before what it sends is made",
    "computed within a group", "member dropped", "messages of two shapes crossed",
    "weight gradients put off", "forwards ahead of the limit", "forwards ahead of the capacity",
    "dropped", "doubled", "micro-batch that is none", "on another rank", "before its forward",
    "before what the next rank wants first", "overlapped with its own backward", "full backward beside its parts",
    "two forwards overlapped", "kind that the form lacks", "message dropped", "message doubled", "messages crossed",
    "sent before it is made", "received behind its reader", "awaited before its cause is sent",
)  # fmt: skip
"""The names of all faults: first those of what few schedules have."""
_RARE: Final = FAULTS.index("dropped")


def mutations(schedule: Schedule, problem: Problem | None = None) -> st.SearchStrategy[Mutation]:
    """Draw a valid, complete schedule with one fault planted in it.

    Faults of what few schedules have, such as groups, or stages on several ranks, come up three times as often as all
    others together. Examples shrink to the first fault in ``FAULTS`` that can be planted, at its first place.

    Faults are planted in steps of one operation, and in groups. In compute: dropped (SV103), doubled or, where the
    backward is split, a full backward beside its parts (SV104), of a micro-batch that is none, or two forwards
    overlapped (SV101), on a rank of another stage, or of a stage on several ranks on some of them only (SV102); changed
    places with its own forward, overlapped with its own backward, or in another order than on another of its ranks
    (SV201). In communication: dropped or doubled (SV301), two messages of one channel crossed on one end (SV302), a
    send before what makes its tensor, or a receive behind what reads it (SV303), and a gradient awaited before its
    activation is sent, which is a deadlock from the discipline ``pair`` on (SV304). Of groups: a member dropped
    (SV301), two members crossed (SV302), a group before what it sends (SV303), or with a compute step in it (SV101). Of
    waits: one before its send or twice (SV303). Of
    UNSHARD, RESHARD and REDUCE_GRAD: one that lacks, is doubled, or comes too early (SV305).

    Parameters
    ----------
    problem
        What the schedule is for. With it come the faults that only it can tell: a kind that its form lacks (SV101); a
        message on a rank of its stage that is not the first (SV102); a backward before a forward that the next rank
        wants first, so that two ranks wait for each other, or a part of a sequence before the part that it reads
        (SV201); two groups whose members come one after another, each its send first (SV304); one reduction for stages
        that share weights (SV305); messages of two shapes crossed, where boundaries declare them (SV306); and, in
        compute orders, forwards that run ahead until a limit or the capacity, or what the capacity has room for when
        stages recompute, is exceeded (SV401, SV402), or weight gradients put off until the capacity is (SV402).

    Raises
    ------
    InputError
        If no step of the schedule is a single operation or a group.
    """
    rows = rows_of(schedule)
    by_name: dict[str, list[Planted]] = {}
    for place in places(schedule):
        for planted in _planted(rows, place, problem):
            by_name.setdefault(planted.fault, []).append(planted)
    if not by_name:
        fault = Fault("schedule", "no step is a single operation or a group", "faults are planted in such steps")
        raise InputError(fault)
    number = st.integers(0, (1 << 32) - 1)

    def planted_by(number: int, place: int) -> Mutation:
        chosen = by_name[_chosen(number, by_name)]
        return chosen[place % len(chosen)].within(rows)

    return st.builds(planted_by, number, number)


def _chosen(number: int, names: Collection[str]) -> str:
    """Return one of some names: of 0 the first in ``FAULTS``, of multiples of 4 any, of others a rare one.

    Of the same number it is the same, unless that is not among the names: so an example that shrinks keeps its fault
    while others become impossible.
    """
    rare = [name for name in FAULTS[:_RARE] if name in names]
    among = rare if number % 4 and rare else names
    return min(among, key=lambda name: number_for(number, name) if number else FAULTS.index(name))


def places(schedule: Schedule) -> list[Place]:
    """Return where faults can be planted: at every step of one operation, and at every group."""
    steps = ((rank, p, step) for rank, row in enumerate(rows_of(schedule)) for p, step in enumerate(row))
    return [(rank, position) for rank, position, step in steps if step.join is not Join.OVERLAP]


def faults_at(schedule: Schedule, place: Place, problem: Problem | None = None) -> Iterator[Mutation]:
    """Yield every fault that can be planted at a place."""
    rows = rows_of(schedule)
    return (fault.within(rows) for fault in _planted(rows, place, problem))


def rows_of(schedule: Schedule) -> Rows:
    """Return the steps of every rank."""
    return [list(schedule.steps(rank)) for rank in range(schedule.ranks)]


def _planted(rows: Rows, place: Place, problem: Problem | None) -> Iterator[Planted]:
    rank, position = place
    ops = rows[rank][position].ops
    kind = ops[0].kind
    if len(ops) > 1:
        yield from faults_of_groups(rows, rank, position, problem)
    elif kind.is_send_wait:
        yield from faults_of_waits(rows, rank, position, problem)
    elif kind.is_transfer:
        yield from faults_of_messages(rows, rank, position, problem)
    elif kind >= Kind.UNSHARD:
        yield from faults_of_parameters(rows, rank, position, problem)
    else:
        yield from faults_of_orders(rows, rank, position, problem)
        if problem is not None:
            yield from faults_of_limits(rows, rank, position, problem)
