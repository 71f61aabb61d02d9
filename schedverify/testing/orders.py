"""Schedules of a problem: any order that its dependencies allow, one drawn choice a step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from hypothesis import strategies as st

from schedverify.core.op import Join, Kind, Op, Step
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.testing.choices import DrawnChoices
from schedverify.testing.faults import mutations
from schedverify.testing.limits import exceeds_capacity, exceeds_in_flight
from schedverify.testing.planting import Rows


def schedules(
    problem: Problem, *, valid: bool = True, mixed: bool = False, overlapped: bool = False
) -> st.SearchStrategy[Schedule]:
    """Draw a schedule of a problem, without communication; a split backward is I and W.

    Every step is drawn from all operations whose inputs are there and for which the limits have room, so each such
    order can come out, though some are likelier than others. Where limits leave room for none of what is left, one
    micro-batch after another stands in the place of what was drawn. Examples shrink to that order too.

    Parameters
    ----------
    valid
        False for schedules with one fault, as :func:`mutations` plants them.
    mixed
        Whether some stages run some micro-batches' split backward as one B.
    overlapped
        Whether an F and a B of the same ranks may be one step, an overlapped pair. (Of a split backward only a B that
        ``mixed`` draws can be in one.)
    """
    right = _orders(problem, mixed, overlapped)
    if valid:
        return right
    return right.flatmap(lambda schedule: mutations(schedule, problem)).map(lambda mutation: mutation.schedule)


@st.composite
def _orders(draw: st.DrawFn, problem: Problem, mixed: bool, overlapped: bool) -> Schedule:
    choices, needed = DrawnChoices(draw), reads(problem)
    if mixed:
        needed = _with_whole(choices, needed)

    def drawn(ready: list[Op], rows: Rows) -> Step | None:
        fitting = [step for step in map(_alone, ready) if _fits(rows, step, problem)]
        step = fitting[choices.among(len(fitting))] if fitting else None
        if step is not None and overlapped:
            pairs = [pair for pair in _pairs(step.ops[0], ready, problem) if _fits(rows, pair, problem)]
            number = choices.among(len(pairs) + 1)
            return pairs[number - 1] if number else step
        return step

    return Schedule.of(_order(problem, needed, drawn) or _order(problem, needed, lambda ready, _: _alone(ready[0])))


def _with_whole(choices: DrawnChoices, needed: dict[Op, set[Op]]) -> dict[Op, set[Op]]:
    """Return the needed operations with a B in the place of some I and their W."""
    whole = {op: op._replace(kind=Kind.B) for op in needed if op.kind is Kind.I and choices.among(2)}
    gone = {op._replace(kind=Kind.W) for op in whole}
    return {
        whole.get(op, op): {whole.get(source, source) for source in inputs}
        for op, inputs in needed.items()
        if op not in gone
    }


def _alone(op: Op) -> Step:
    return Step((op,))


def _pairs(op: Op, ready: list[Op], problem: Problem) -> list[Step]:
    """Return the overlapped pairs of an operation with another one that is ready on the same ranks."""
    wanted = {Kind.F: Kind.B, Kind.B: Kind.F}.get(op.kind)
    on = set(problem.placement[op.stage])
    others = [other for other in ready if other.kind is wanted and set(problem.placement[other.stage]) == on]
    return [Step((op, other), Join.OVERLAP) for other in others]


def _order(problem: Problem, needed: dict[Op, set[Op]], choose: Callable[[list[Op], Rows], Step | None]) -> Rows:
    """Return the needed operations in an order in which each step is chosen from those whose inputs are there.

    Parameters
    ----------
    choose
        Takes those operations by micro-batch, and the rows so far; where it returns None there is no order: ``[]``.
    """
    waiting, done = dict(needed), set[Op]()
    rows: Rows = [[] for _ in range(problem.ranks)]
    while waiting:
        step = choose([op for op, inputs in waiting.items() if inputs <= done], rows)
        if step is None:
            return []
        for rank in problem.placement[step.ops[0].stage]:
            rows[rank].append(step)
        done.update(step.ops)
        for op in step.ops:
            del waiting[op]
    return rows


def _fits(rows: Rows, step: Step, problem: Problem) -> bool:
    """Whether the limits of a step's ranks have room for it next."""
    for rank in problem.placement[step.ops[0].stage]:
        row = [*rows[rank], step]
        if exceeds_in_flight(row, rank, problem) or exceeds_capacity(row, rank, problem):
            return False
    return True


def reads(problem: Problem) -> dict[Op, set[Op]]:
    """Return every needed operation by micro-batch with its inputs (semantics, section 1)."""
    backward = Kind.I if problem.form == "split" else Kind.B
    found: dict[Op, set[Op]] = {}
    for m, stage in product(range(problem.microbatches), range(problem.total_stages)):
        if not problem.passes(stage, m):
            continue
        forward, gradient = Op(Kind.F, stage, m), Op(backward, stage, m)
        found[forward] = {Op(Kind.F, s, m) for s in problem.predecessors[stage]}
        if m % problem.slices:
            found[forward].add(Op(Kind.F, stage, m - 1))
        if problem.form == "inference":
            continue
        found[gradient] = {forward, *(Op(backward, s, m) for s in problem.successors[stage])}
        if (m + 1) % problem.slices:
            found[gradient].add(Op(backward, stage, m + 1))
        if problem.form == "split":
            found[Op(Kind.W, stage, m)] = {gradient}
    return found
