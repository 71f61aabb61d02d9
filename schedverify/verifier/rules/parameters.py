"""SV305, SV405: parameters are gathered while they are used, few at a time, and gradients reduced once."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

import numpy as np

from schedverify.core.op import Kind, Op, unpack
from schedverify.core.result import Violation
from schedverify.core.schedule import kinds, positions
from schedverify.verifier.rules.base import Case, NotApplicable, rule, violation_at

Placed = tuple[int, Op]
"""A position in a rank's order and an operation there."""


@rule("SV305", "parameters gathered, gradients reduced")
def gathered_and_reduced(case: Case) -> Iterator[Violation]:
    """Each use of a stage lies between its UNSHARD and the next RESHARD, and each gradient is reduced once.

    What it checks

    Where a stage's `UNSHARD` or `RESHARD` stands on a rank, they alternate there, `UNSHARD` first, and each F, B, I and
    W of the stage stands behind an `UNSHARD` and before the next `RESHARD`. If any `REDUCE_GRAD` stands in the
    schedule, each stage has exactly one on each of its ranks, behind its last B or W there. If any `WAIT_REDUCE_GRAD`
    does, exactly one stands somewhere behind each `REDUCE_GRAD`, and none elsewhere.

    Why it matters

    A step on sharded parameters fails, or runs on what the buffer held before. A missing or doubled reduction scales
    gradients by the number of micro-batches or of ranks, and a missing wait reads them before they are reduced; nothing
    says so.

    Example

    In `0UNSHARD 0F0 0RESHARD 0B0 0REDUCE_GRAD` rank 0 runs 0B0 at position 3 while stage 0 is not gathered.

    Formally

    For every rank r and stage s of which an UNSHARD or RESHARD stands in the order of r, that order, left of all but
    the UNSHARD and RESHARD of s and the operations of s, has the form (UNSHARD use* RESHARD)* or that followed by one
    UNSHARD. If a REDUCE_GRAD stands anywhere: for every s and every r in placement(s), exactly one of s stands in the
    order of r, and no B or W of s behind it. If a WAIT_REDUCE_GRAD stands anywhere: for every r and s, as many of s
    stand in the order of r as REDUCE_GRAD of s, at most one, and it behind that.
    """
    any_stands = any((kinds(row) >= int(Kind.UNSHARD)).any() for row in case.schedule.rows)
    rows = [_marked(case, rank) for rank in range(case.schedule.ranks if any_stands else 0)]
    if not any(op.kind >= Kind.UNSHARD for row in rows for _, op in row):
        raise NotApplicable("no UNSHARD, RESHARD or REDUCE_GRAD stands in the schedule")
    for rank, row in enumerate(rows):
        yield from _alternate(rank, row)
    if any(op.kind == Kind.REDUCE_GRAD for row in rows for _, op in row):
        for stage, ranks in enumerate(case.problem.placement):
            for rank in sorted(ranks):
                own = [(position, op) for position, op in rows[rank] if op.stage == stage]
                places = [position for position, op in own if op.kind == Kind.REDUCE_GRAD]
                last = max(((position, op) for position, op in own if op.kind in (Kind.B, Kind.W)), default=None)
                name = f"{stage}REDUCE_GRAD"
                missing = f"{name} stands nowhere on the rank, but others are reduced"
                yield from reduced_once("SV305", rank, name, places, last and (last[0], str(last[1])), missing)
    if any(op.kind == Kind.WAIT_REDUCE_GRAD for row in rows for _, op in row):
        for rank, row in enumerate(rows):
            yield from _waited_for(rank, row)


@rule("SV405", "unsharded stages within the limit")
def few_unsharded(case: Case) -> Iterator[Violation]:
    """The stages of a rank that are unsharded at once stay within the limit.

    What it checks

    On each rank, the stages whose parameters are gathered, from `UNSHARD` to `RESHARD` or to the end, are at most
    `limits.unsharded` at any position.

    Why it matters

    Each stage that is gathered holds the weights of all the ranks that share it. PyTorch keeps at most three a rank by
    default; one more can be the whole of what is left of the memory.

    Example

    With `unsharded = 1`, `0UNSHARD 2UNSHARD 0F0 0RESHARD` has two stages unsharded at position 1.

    Formally

    For every rank r and position i: the number of stages s with r in placement(s) of which an UNSHARD stands in the
    order of r at or before i, and no RESHARD between the last such and i, i left out, is at most unsharded(r).
    """
    if case.problem.unsharded is None:
        raise NotApplicable("the problem limits no unsharded stages (limits.unsharded)")
    rows = [_sharding(case, rank) for rank in range(case.schedule.ranks)]
    if not any(op.kind == Kind.UNSHARD for row in rows for _, op in row):
        raise NotApplicable("no UNSHARD stands in the schedule")
    for rank, (row, limit) in enumerate(zip(rows, case.problem.unsharded, strict=True)):
        over = next((held for held in _gathered(row) if len(held[1]) > limit), None)
        if over is not None:
            position, stages = over
            message = f"rank {rank} has {len(stages)} stages unsharded at position {position}; the limit is {limit}"
            yield Violation("SV405", message, rank, position, tuple(f"{stage}UNSHARD" for stage in stages))


def _sharding(case: Case, rank: int) -> list[Placed]:
    """Return the UNSHARD and RESHARD of a rank's own stages."""
    own = case.problem.stages_of[rank]
    kinds_of_sharding = (Kind.UNSHARD, Kind.RESHARD)
    steps = enumerate(case.schedule.steps(rank))
    return [(i, op) for i, step in steps for op in step.ops if op.kind in kinds_of_sharding and op.stage in own]


def _gathered(row: list[Placed]) -> Iterator[tuple[int, list[int]]]:
    """Yield each position of a row with the stages that are gathered while its step runs, in rising order."""
    held: set[int] = set()
    for position, members in groupby(row, key=itemgetter(0)):
        ops = [op for _, op in members]
        yield position, sorted(held | {op.stage for op in ops if op.kind == Kind.UNSHARD})
        for op in ops:
            (held.add if op.kind == Kind.UNSHARD else held.discard)(op.stage)


def _waited_for(rank: int, row: list[Placed]) -> Iterator[Violation]:
    """Tell where a REDUCE_GRAD of a rank has no wait behind it or several, and a wait no REDUCE_GRAD before it."""
    stages: dict[int, tuple[list[int], list[int]]] = {}
    for position, op in row:
        if op.kind in (Kind.REDUCE_GRAD, Kind.WAIT_REDUCE_GRAD):
            stages.setdefault(op.stage, ([], []))[op.kind == Kind.WAIT_REDUCE_GRAD].append(position)
    for stage, (reduced, waited) in sorted(stages.items()):
        name, wait = f"{stage}REDUCE_GRAD", f"{stage}WAIT_REDUCE_GRAD"
        behind = [at for at in waited if reduced and at > reduced[0]]
        for at in waited[: len(waited) - len(behind)]:
            yield violation_at("SV305", rank, at, wait, f"no {name} stands before it")
        for at in behind[1:]:
            yield violation_at("SV305", rank, at, wait, f"it stands at position {behind[0]} already")
        for at in reduced:
            if not behind or behind[-1] <= at:
                text = f"no {wait} stands behind it, but others are waited for"
                yield violation_at("SV305", rank, at, name, text, wait)


def _marked(case: Case, rank: int) -> list[Placed]:
    """Return what computes on a rank and what is done to parameters there.

    A step that holds both is none (SV101); in it, what is done to parameters comes first.
    """
    row = case.schedule.rows[rank]
    kind = kinds(row)
    chosen = np.flatnonzero(case.problem.has_operations(row) & ((kind <= int(Kind.W)) | (kind >= int(Kind.UNSHARD))))
    places = positions(row)
    chosen = chosen[np.lexsort((kind[chosen] <= int(Kind.W), places[chosen]))]
    return list(zip(places[chosen].tolist(), map(unpack, row[chosen].tolist()), strict=True))


def _alternate(rank: int, row: list[Placed]) -> Iterator[Violation]:
    """Tell what is out of turn among the UNSHARD, RESHARD and uses of each stage on a rank."""
    gathered: dict[int, int | None] = {op.stage: None for _, op in row if op.kind in (Kind.UNSHARD, Kind.RESHARD)}
    used: dict[int, Placed] = {}
    for position, op in row:
        since = gathered.get(op.stage)
        if op.stage not in gathered or op.kind in (Kind.REDUCE_GRAD, Kind.WAIT_REDUCE_GRAD):
            continue
        if op.kind == Kind.UNSHARD:
            if since is not None:
                text = f"stage {op.stage} is gathered since position {since}"
                yield violation_at("SV305", rank, position, str(op), text)
            gathered[op.stage] = position
        elif since is None:
            yield violation_at("SV305", rank, position, str(op), f"stage {op.stage} is not gathered")
        elif op.kind == Kind.RESHARD:
            gathered[op.stage] = None
            used.pop(op.stage, None)
        else:
            used[op.stage] = position, op
    for stage, (position, op) in used.items():
        yield violation_at("SV305", rank, position, str(op), f"no RESHARD of stage {stage} follows")


def reduced_once(
    code: str, rank: int, name: str, places: list[int], last: tuple[int, str] | None, missing: str
) -> Iterator[Violation]:
    """Tell where a stage's REDUCE_GRAD is missing on a rank, stands twice, or stands before a backward.

    Parameters
    ----------
    name, places
        The operation, and the positions at which it stands.
    last
        The last B or W of the stage on the rank: its position and its text.
    missing
        What is said where it stands nowhere.
    """
    if not places:
        where = f"rank {rank}" if last is None else f"rank {rank}, position {last[0]} ({last[1]})"
        yield Violation(code, f"{where}: {missing}", rank, last and last[0], (name,))
    for position in places[1:]:
        yield violation_at(code, rank, position, name, f"it stands at position {places[0]} already")
    if places and last is not None and places[0] < last[0]:
        yield violation_at(code, rank, places[0], name, f"{last[1]} at position {last[0]} comes behind it")
