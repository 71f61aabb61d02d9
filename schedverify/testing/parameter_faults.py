"""Faults of what gathers and frees the parameters of a stage and reduces their gradients."""

from __future__ import annotations

from collections.abc import Iterator

from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.testing.planting import Planted, Rows, alone, dropped, inserted, moved, place_of


def faults_of_parameters(rows: Rows, rank: int, position: int, problem: Problem | None) -> Iterator[Planted]:
    """Yield what can be done to an UNSHARD, RESHARD or REDUCE_GRAD."""
    row, step = rows[rank], rows[rank][position]
    kind, stage = step.ops[0].kind, step.ops[0].stage
    if kind is Kind.WAIT_REDUCE_GRAD:
        yield from _of_a_wait(rows, rank, position)
        return
    name = {Kind.UNSHARD: "gathered", Kind.RESHARD: "freed", Kind.REDUCE_GRAD: "reduced"}[kind]
    yield Planted(f"{name} twice", "SV305", {rank: inserted(row, position, step)})
    others = (other for line in rows for other in line if other != step)
    if kind is not Kind.REDUCE_GRAD or any(other.ops[0].kind is kind for other in others):
        yield Planted(f"never {name}", "SV305", {rank: dropped(row, position)})
    ends = (Kind.B, Kind.W) if kind is Kind.REDUCE_GRAD else (Kind.F, Kind.B, Kind.I, Kind.W)
    uses = [p for p in range(position) if any(o.stage == stage and o.kind in ends for o in row[p].ops)]
    if uses and kind is not Kind.UNSHARD:
        yield Planted(f"{name} too early", "SV305", {rank: moved(row, position, uses[-1])})
    if problem is not None and problem.unsharded is not None and kind is Kind.UNSHARD:
        first = {other.ops[0].stage: other for other in row if other.ops[0].kind is Kind.UNSHARD}
        rest = list(row)
        for other in first.values():
            rest.remove(other)
        if len(first) > problem.unsharded[rank]:
            yield Planted("gathered ahead of the limit", "SV405", {rank: [*first.values(), *rest]})
    if problem is not None and kind is Kind.REDUCE_GRAD:
        yield from _reduced_as_one(rows, rank, position, problem)


def _of_a_wait(rows: Rows, rank: int, position: int) -> Iterator[Planted]:
    """Double the wait for a reduction, leave it away where there are others, or put it before the reduction."""
    row, step = rows[rank], rows[rank][position]
    yield Planted("reduction awaited twice", "SV305", {rank: inserted(row, position, step)})
    if sum(other.ops[0].kind is Kind.WAIT_REDUCE_GRAD for line in rows for other in line) > 1:
        yield Planted("reduction never awaited", "SV305", {rank: dropped(row, position)})
    at = place_of(row, step.ops[0]._replace(kind=Kind.REDUCE_GRAD))
    if at is not None and at < position:
        yield Planted("reduction awaited before it begins", "SV305", {rank: moved(row, position, at)})


def _reduced_as_one(rows: Rows, rank: int, position: int, problem: Problem) -> Iterator[Planted]:
    """Reduce only one of the stages that share weights, as if they were one."""
    step = rows[rank][position]
    stage = step.ops[0].stage
    tied = {s for group in problem.tied for s in group if stage % problem.stages in group}
    gone = [alone(Kind.REDUCE_GRAD, s, None) for s in range(problem.total_stages) if s % problem.stages in tied]
    changed = {r: [other for other in row if other == step or other not in gone] for r, row in enumerate(rows)}
    if any(changed[r] != row for r, row in enumerate(rows)):
        yield Planted("tied stages reduced as one", "SV305", changed)
