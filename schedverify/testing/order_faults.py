"""Faults of compute steps: lacking, doubled, misplaced, in an order that cannot run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from schedverify.core.op import Join, Kind, Op, Step
from schedverify.core.problem import Problem
from schedverify.testing.planting import Planted, Row, Rows, alone, dropped, inserted, moved, place_of, swapped

_LACKED: Final = {"fused": Kind.W, "inference": Kind.B}
"""By form, a kind that it lacks."""


def faults_of_orders(rows: Rows, rank: int, position: int, problem: Problem | None) -> Iterator[Planted]:
    """Yield what can be done to a compute step."""
    row, step = rows[rank], rows[rank][position]
    op = step.ops[0]
    yield Planted("dropped", "SV103", {r: [other for other in line if other != step] for r, line in enumerate(rows)})
    yield Planted("doubled", "SV104", {rank: inserted(row, position, step)})
    yield from _ill_formed(rows, rank, position, problem)
    others = [r for r, line in enumerate(rows) if all(o.stage != op.stage for s in line for o in s.ops)]
    if others:
        yield Planted("on another rank", "SV102", {rank: dropped(row, position), others[0]: [*rows[others[0]], step]})
    if op.kind in (Kind.I, Kind.W):
        whole = alone(Kind.B, op.stage, op.microbatch)
        yield Planted("full backward beside its parts", "SV104", {rank: inserted(row, position + 1, whole)})
    forward = alone(Kind.F, op.stage, op.microbatch)
    if op.kind is not Kind.F and forward in row:
        yield Planted("before its forward", "SV201", {rank: swapped(row, position, row.index(forward))})
    yield from _of_several_ranks(rows, rank, position)
    if problem is not None and op.kind in (Kind.B, Kind.I):
        yield from _two_ranks_waiting(rows, rank, position, problem)
    if problem is not None and problem.slices > 1:
        yield from _before_other_part(row, rank, position, problem)


def _ill_formed(rows: Rows, rank: int, position: int, problem: Problem | None) -> Iterator[Planted]:
    """Yield steps that are none of the problem's, and pairs that no rank can run."""
    row, step = rows[rank], rows[rank][position]
    op = step.ops[0]
    last = max(other.microbatch or 0 for line in rows for found in line for other in found.ops)
    foreign = alone(op.kind, op.stage, last + 1)
    yield Planted("micro-batch that is none", "SV101", {rank: inserted(row, position + 1, foreign)})
    following = row[position + 1].ops if position + 1 < len(row) else ()
    own = alone(Kind.B, op.stage, op.microbatch)
    if op.kind is Kind.F and own in row:
        both = Step((op, *own.ops), Join.OVERLAP)
        behind = [other for other in row[position + 1 :] if other != own]
        yield Planted("overlapped with its own backward", "SV201", {rank: [*row[:position], both, *behind]})
    if op.kind is Kind.F and [other.kind for other in following] == [Kind.F]:
        both = Step((op, *following), Join.OVERLAP)
        yield Planted("two forwards overlapped", "SV101", {rank: [*row[:position], both, *row[position + 2 :]]})
    if problem is not None and problem.form in _LACKED:
        lacked = alone(_LACKED[problem.form], op.stage, op.microbatch)
        yield Planted("kind that the form lacks", "SV101", {rank: inserted(row, position + 1, lacked)})


def _two_ranks_waiting(rows: Rows, rank: int, position: int, problem: Problem) -> Iterator[Planted]:
    """Move a backward before a forward whose next stage, on another rank, runs it before that backward."""
    row, op = rows[rank], rows[rank][position].ops[0]
    own = place_of(row, Op(Kind.F, op.stage, op.microbatch))
    for after in problem.successors[op.stage]:
        peer = rows[problem.owner_rank[after]]
        until = place_of(peer, Op(Kind.B, after, op.microbatch), Op(Kind.I, after, op.microbatch))
        if problem.owner_rank[after] == rank or until is None or own is None:
            continue
        first = [other for step in peer[:until] for other in step.ops if other[:2] == (Kind.F, after)]
        forwards = {Op(Kind.F, op.stage, other.microbatch) for other in first}
        waiting = [p for p in range(own + 1, position) if forwards.intersection(row[p].ops)]
        if waiting:
            yield Planted("before what the next rank wants first", "SV201", {rank: moved(row, position, waiting[-1])})
            return


def _of_several_ranks(rows: Rows, rank: int, position: int) -> Iterator[Planted]:
    """Take a step from one of its ranks; and from two ranks let one run two steps that both share the other way."""
    row, step = rows[rank], rows[rank][position]
    sharing = [other for r, other in enumerate(rows) if r != rank and step in other]
    if not sharing:
        return
    yield Planted("on some of its ranks only", "SV102", {rank: dropped(row, position)})
    for later in range(position + 1, len(row)):
        computes = row[later].ops[0].kind.is_compute
        if computes and any(row[later] in other[other.index(step) :] for other in sharing):
            yield Planted("two ranks at odds", "SV201", {rank: swapped(row, position, later)})
            return


def _before_other_part(row: Row, rank: int, position: int, problem: Problem) -> Iterator[Planted]:
    """Exchange a part of a sequence with the part before it on its stage, of a backward with the part behind it."""
    kind, stage, number, _ = row[position].ops[0]
    part = number or 0
    other = part + (-1 if kind is Kind.F else 1)
    if kind is Kind.W or other // problem.slices != part // problem.slices:
        return
    kinds = (Kind.F,) if kind is Kind.F else (Kind.B, Kind.I)
    read = [p for p in range(position) if row[p] in [alone(one, stage, other) for one in kinds]]
    if read:
        yield Planted("before the part that it reads", "SV201", {rank: swapped(row, position, read[0])})
