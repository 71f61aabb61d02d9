"""Schedules of a problem: any order that its dependencies allow, one drawn choice a step."""

from __future__ import annotations

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
    waiting = reads(problem)
    rows: Rows = [[] for _ in range(problem.ranks)]
    done: set[Op] = set()
    while waiting:
        ready = [op for op, inputs in waiting.items() if inputs <= done and _fits(rows, op, problem)]
        if not ready:
            return _in_turn(problem)
        op = ready[draw(st.integers(0, len(ready) - 1))]
        _run(op, rows, done, waiting, problem)
    return Schedule.of(rows)


def _in_turn(problem: Problem) -> Schedule:
    """Return the operations by micro-batch, each behind its inputs."""
    waiting = reads(problem)
    rows: Rows = [[] for _ in range(problem.ranks)]
    done: set[Op] = set()
    while waiting:
        _run(next(op for op, inputs in waiting.items() if inputs <= done), rows, done, waiting, problem)
    return Schedule.of(rows)


def _run(op: Op, rows: Rows, done: set[Op], waiting: dict[Op, set[Op]], problem: Problem) -> None:
    """Put an operation at the end of the orders of its ranks."""
    for rank in problem.placement[op.stage]:
        rows[rank].append(Step((op,)))
    done.add(op)
    del waiting[op]


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
    size = problem.slices
    for m in range(problem.microbatches):
        for stage in (stage for stage in range(problem.total_stages) if problem.passes(stage, m)):
            found[Op(Kind.F, stage, m)] = {Op(Kind.F, s, m) for s in problem.predecessors[stage]} | (
                {Op(Kind.F, stage, m - 1)} if m % size else set()
            )
            if problem.form == "inference":
                continue
            found[Op(backward, stage, m)] = (
                {Op(Kind.F, stage, m)}
                | {Op(backward, s, m) for s in problem.successors[stage]}
                | ({Op(backward, stage, m + 1)} if (m + 1) % size else set())
            )
            if problem.form == "split":
                found[Op(Kind.W, stage, m)] = {Op(Kind.I, stage, m)}
    return found
