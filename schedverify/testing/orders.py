"""Schedules of a problem: any order that its dependencies allow, one drawn choice a step."""

from __future__ import annotations

from collections.abc import Callable
from itertools import product

from hypothesis import strategies as st

from schedverify.core.op import Kind, Op, Step
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.testing.faults import mutations
from schedverify.testing.limits import exceeds_capacity, exceeds_in_flight
from schedverify.testing.planting import Rows


def schedules(problem: Problem, *, valid: bool = True) -> st.SearchStrategy[Schedule]:
    """Draw a schedule of a problem, without overlapped pairs and without communication; a split backward is I and W.

    Every step is drawn from all operations whose inputs are there and for which the limits have room, so each such
    order can come out, though some are likelier than others. Where limits leave room for none of what is left, one
    micro-batch after another stands in the place of what was drawn. Examples shrink to that order too.

    Parameters
    ----------
    valid
        False for schedules with one fault, as :func:`mutations` plants them.
    """
    right = _orders(problem)
    if valid:
        return right
    return right.flatmap(lambda schedule: mutations(schedule, problem)).map(lambda mutation: mutation.schedule)


@st.composite
def _orders(draw: st.DrawFn, problem: Problem) -> Schedule:
    def drawn(ready: list[Op], rows: Rows) -> Op | None:
        fitting = [op for op in ready if _fits(rows, op, problem)]
        return fitting[draw(st.integers(0, len(fitting) - 1))] if fitting else None

    return Schedule.of(_order(problem, drawn) or _order(problem, lambda ready, _: ready[0]))


def _order(problem: Problem, choose: Callable[[list[Op], Rows], Op | None]) -> Rows:
    """Return the operations in an order in which each of them is chosen from those whose inputs are there.

    Parameters
    ----------
    choose
        Takes those operations by micro-batch, and the rows so far; where it returns None there is no order: ``[]``.
    """
    waiting, done = reads(problem), set[Op]()
    rows: Rows = [[] for _ in range(problem.ranks)]
    while waiting:
        op = choose([op for op, inputs in waiting.items() if inputs <= done], rows)
        if op is None:
            return []
        for rank in problem.placement[op.stage]:
            rows[rank].append(Step((op,)))
        done.add(op)
        del waiting[op]
    return rows


def _fits(rows: Rows, op: Op, problem: Problem) -> bool:
    """Whether the limits of an operation's ranks have room for it next."""
    for rank in problem.placement[op.stage]:
        row = [*rows[rank], Step((op,))]
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
