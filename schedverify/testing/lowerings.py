"""Lowered schedules of a problem, and what a lowering must do with a compute order."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from hypothesis import strategies as st

from schedverify.core.discipline import DEFAULT_DISCIPLINE
from schedverify.core.op import Join, Kind, Op, Step
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.lowering import add_communication, add_sharding, defer_receives
from schedverify.testing.checking import SchedulerFault, failure, made_by, report_text
from schedverify.testing.choices import DrawnChoices, number_for
from schedverify.testing.faults import mutations, rows_of
from schedverify.testing.message_faults import peer_of
from schedverify.testing.orders import schedules
from schedverify.testing.planting import Row, alone, inserted
from schedverify.verifier.verification import verify

__tracebackhide__ = True
"""pytest shows the line of the test, not what stands here."""

Lowering = Callable[[Schedule, Problem], Schedule]


def lowerings(
    problem: Problem,
    orders: st.SearchStrategy[Schedule] | None = None,
    *,
    valid: bool = True,
    groups: bool = False,
    unshard: bool = False,
    waits: bool = False,
) -> st.SearchStrategy[Schedule]:
    """Draw a schedule of a problem with its communication in it, free of deadlock up to the discipline ``pair``.

    The messages stand where :func:`schedverify.lower` puts them, or receives are deferred; examples shrink to the
    first. What is received counts in a lowered schedule, so it may exceed a capacity that its compute order keeps.

    Parameters
    ----------
    orders
        The compute orders to lower; by default those of ``schedules(problem)``.
    valid
        False for schedules with one fault, as :func:`mutations` plants them.
    groups
        Whether sends and receives that follow one another may be one group; where their rank computes in between, sends
        are then late, or receives early.
    unshard
        Whether parameters are gathered and freed, so many stages of a rank at once as is drawn, and gradients reduced.
    waits
        Whether every send is waited for, and with ``unshard`` every reduction, somewhere behind it. Receives then stand
        where ``lower`` puts them. Where the problem limits ``outstanding_sends``, sends are waited for at once, and are
        in no groups, even if this is not asked for.
    """
    order = schedules(problem) if orders is None else orders
    right = _lowerings(problem, order, groups, unshard, waits or problem.outstanding_sends is not None)
    if valid:
        return right
    return right.flatmap(lambda schedule: mutations(schedule, problem)).map(lambda mutation: mutation.schedule)


@st.composite
def _lowerings(
    draw: st.DrawFn, problem: Problem, orders: st.SearchStrategy[Schedule], groups: bool, unshard: bool, waits: bool
) -> Schedule:
    # What is drawn before the order stays as it is while that shrinks.
    defers, number = draw(st.booleans()), draw(st.integers(0, (1 << 32) - 1)) if groups else 0
    schedule = add_communication(draw(orders), problem)
    if not waits:
        schedule = defer_receives(schedule, problem) if defers else schedule
        rows = [_with_opposite(number, row, problem) if groups else row for row in rows_of(schedule)]
    else:
        # Nothing is later than in the order of all steps that ``lower`` walks, so none of them is waited for in vain.
        rows = rows_of(schedule)
    limited, choices = problem.outstanding_sends is not None, DrawnChoices(draw)
    if groups and not limited:
        rows = [_grouped(number, row, problem) for row in rows]
    if waits:
        rows = [_awaited(choices, row, limited) for row in rows]
    schedule = Schedule.of(rows)
    return _sharded(choices, schedule, problem, waits) if unshard else schedule


def _awaited(choices: DrawnChoices, row: Row, limited: bool) -> Row:
    """Return a row with a wait for each send somewhere behind it; right behind it where they are limited."""
    for op in [op for step in row for op in step.ops if op.kind.is_send]:
        kind = Kind.WAIT_SEND_F if op.kind is Kind.SEND_F else Kind.WAIT_SEND_B
        first = next(p for p, step in enumerate(row) if op in step.ops) + 1
        behind = 0 if limited else choices.among(len(row) - first + 1)
        row = inserted(row, first + behind, Step((op._replace(kind=kind),)))
    return row


def _with_opposite(number: int, row: Row, problem: Problem) -> Row:
    """Return a row in which some receives wait for the next send to the same rank, and are one group with it.

    No other message of the two ranks comes between, nor the step that reads it: so nobody waits for it meanwhile.
    """
    found = list(row)
    for step in row:
        op = step.ops[0]
        if step.join is Join.BEGIN and op.kind in (Kind.RECV_F, Kind.RECV_B):
            at = found.index(step)
            send = _next_send(found, at, problem)
            if send is not None and _is_chosen(number, step):
                found[send] = Step((*found[send].ops, op), Join.GROUP)
                del found[at]
    return found


def _is_chosen(number: int, step: Step) -> bool:
    """Whether a step joins a group: of 0 each does, of other numbers about half of them."""
    return number == 0 or number_for(number, str(step)) % 2 == 0


def _next_send(row: Row, position: int, problem: Problem) -> int | None:
    """Return where the next send to the rank that a receive is from stands, unless something comes between."""
    op = row[position].ops[0]
    readers = {
        Op(kind, op.stage, op.microbatch) for kind in ((Kind.F,) if op.kind is Kind.RECV_F else (Kind.B, Kind.I))
    }
    home = problem.owner_rank
    for p in range(position + 1, len(row)):
        ops = row[p].ops
        if readers.intersection(ops):
            return None
        if any(o.kind.is_transfer and home[peer_of(o, problem)] == home[peer_of(op, problem)] for o in ops):
            return p if all(o.kind.is_send for o in ops) else None
    return None


def _grouped(number: int, row: Row, problem: Problem) -> Row:
    """Return a row in which some transfers that follow one another are groups: they hold each other up less.

    Where the rank computes in between, sends wait for the other transfers, or receives come as early as those. Nobody
    waits in vain for such a send: all that is computed meanwhile reads what was received before it.
    """
    found: Row = []
    last: int | None = None  # where the transfers stand that others may join
    for step in row:
        if not step.ops[0].kind.is_transfer:
            if len(problem.placement[step.ops[0].stage]) > 1:
                last = None  # it waits for another rank, which may wait for what is sent
            found.append(step)
            continue
        if last is not None and _is_chosen(number, step):
            before = found[last].ops
            group = Step((*before, *step.ops), Join.GROUP)
            if last == len(found) - 1 or not any(op.kind.is_send for op in step.ops):
                found[last] = group
                continue
            if all(op.kind.is_send for op in before):
                found = [*found[:last], *found[last + 1 :], group]
                last = len(found) - 1
                continue
        last = len(found)
        found.append(step)
    return found


def _sharded(choices: DrawnChoices, schedule: Schedule, problem: Problem, waits: bool) -> Schedule:
    """Return a schedule with its gradients reduced, and so many stages of a rank gathered at once as is drawn."""
    rows = rows_of(schedule)
    least = max((len({op.stage for op in step.ops if op.kind.is_compute}) for row in rows for step in row), default=1)
    if problem.form != "inference":
        rows = [_reduced(choices, row, problem.stages_of[rank], waits) for rank, row in enumerate(rows)]
    least, limit = max(least, 1), min(problem.unsharded or (problem.total_stages,))
    most = least + choices.among(max(least, limit) - least + 1)
    return add_sharding(Schedule.of(rows), problem, most=most)


def _reduced(choices: DrawnChoices, row: Row, stages: Sequence[int], waits: bool) -> Row:
    """Return a row with a reduction of each of these stages behind its last B or W, and a wait for it behind that."""
    for stage in stages:
        ends = [p for p, step in enumerate(row) for op in step.ops if op.stage == stage and op.kind in (Kind.B, Kind.W)]
        first = ends[-1] + 1 if ends else 0
        for kind in (Kind.REDUCE_GRAD, Kind.WAIT_REDUCE_GRAD)[: 1 + waits]:
            at = first + choices.among(len(row) - first + 1)
            row, first = inserted(row, at, alone(kind, stage, None)), at + 1
    return row


def check_lowering(
    lowering: Lowering,
    schedule: Schedule,
    problem: Problem,
    *,
    discipline: str = DEFAULT_DISCIPLINE,
    properties: Iterable[str] | None = None,
) -> Schedule:
    r"""Check what a lowering makes of a compute order: the same steps, right communication, limits, and the same again.

    Parameters
    ----------
    lowering
        Takes a compute order and its problem, and returns the order with sends and receives in it.
    schedule
        A compute order that can run and keeps the limits, such as :func:`schedules` draws.
    discipline
        Under which it must be free of deadlock (SV304); see semantics, section 4.
    properties
        Codes or beginnings of codes that must hold, of which one at least applies; by default every property that
        applies, so that the limits of memory, buffers, sends, stages unsharded at once and makespan are kept too.
        ``("SV1", "SV2", "SV3")`` asks for right communication alone.

    Returns
    -------
    Schedule
        What the lowering made, for further checks.

    Raises
    ------
    SchedulerFault
        An AssertionError that tells what is wrong, with the problem as a file, both orders and a picture. An exception
        of the lowering is its cause.
    UnknownNameError
        If there is no such discipline or property.

    Examples
    --------
    >>> problem = Problem.chain(ranks=2, microbatches=1)
    >>> print(check_lowering(add_communication, Schedule.parse("0F0 0B0\n1F0 1B0"), problem, discipline="block"))
    0F0 0SEND_F0 0RECV_B0 0B0
    1RECV_F0 1F0 1B0 1SEND_B0
    """

    def fault(text: str, *found: Any) -> SchedulerFault:
        return failure(f"{text}\n\nThe order that was lowered:\n{schedule}", problem, *found)

    def make() -> Schedule:
        made = made_by("lowering", lowering, schedule, problem, fault=fault)
        if made.ranks != schedule.ranks:
            raise fault(f"it has {made.ranks} rows for {schedule.ranks} ranks", made)
        return made

    made = make()
    orders = zip(schedule.compute_only().strings(), made.compute_only().strings(), strict=True)
    for rank, (given, found) in enumerate(orders):
        if given != found:
            raise fault(f"rank {rank} computes {' '.join(found) or '-'}, where its order has other steps", made)
    report = verify(made, problem, select=properties, discipline=discipline)
    if not report.ok:
        raise fault(report_text(report), made, report)
    again = make()
    if again != made:
        raise fault(f"the lowering is not deterministic; called again, it returns\n{again}", made)
    return made
