"""Schedules of a problem: any order that its dependencies allow, one drawn choice a step."""

from __future__ import annotations

from hypothesis import strategies as st

from schedverify.op import Kind, Op
from schedverify.problem import Problem
from schedverify.schedule import Schedule
from schedverify.testing.faults import mutations
from schedverify.verifier import verify


def schedules(problem: Problem, *, valid: bool = True) -> st.SearchStrategy[Schedule]:
    """Draw a schedule of a problem, without overlapped pairs and without communication; a split backward is I and W.

    Every step is drawn from all operations whose inputs are there, so each such order can come out, though some are
    likelier than others. Where limits do
    not allow what was drawn, one micro-batch after another stands in its place. Examples shrink to that order too.

    Parameters
    ----------
    valid
        False for schedules with one fault, as :func:`mutations` plants them.
    """
    right = _orders(problem)
    return (
        right
        if valid
        else right.flatmap(lambda schedule: mutations(schedule, problem)).map(lambda mutation: mutation.schedule)
    )


@st.composite
def _orders(draw: st.DrawFn, problem: Problem) -> Schedule:
    waiting = reads(problem)
    plain = _rows(problem, _in_turn(waiting))
    order: list[Op] = []
    done: set[Op] = set()
    while waiting:
        ready = [op for op, inputs in waiting.items() if inputs <= done]
        op = ready[draw(st.integers(0, len(ready) - 1))]
        order.append(op)
        done.add(op)
        del waiting[op]
    schedule = _rows(problem, order)
    return schedule if verify(schedule, problem, select=("SV4",)).ok else plain


def _in_turn(inputs_of: dict[Op, set[Op]]) -> list[Op]:
    """Return the operations by micro-batch, each behind its inputs."""
    waiting, done, order = dict(inputs_of), set[Op](), list[Op]()
    while waiting:
        op = next(op for op, inputs in waiting.items() if inputs <= done)
        order.append(op)
        done.add(op)
        del waiting[op]
    return order


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


def _rows(problem: Problem, order: list[Op]) -> Schedule:
    rows: list[list[Op]] = [[] for _ in range(problem.ranks)]
    for op in order:
        for rank in problem.placement[op.stage]:
            rows[rank].append(op)
    return Schedule.of(rows)
