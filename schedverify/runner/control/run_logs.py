"""The boundary log of a run: what each rank saw cross, joined at both ends."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from schedverify.core.trace import BoundaryLog, BoundaryTransfer
from schedverify.runner.control.exchange import collect
from schedverify.runner.failures import RunError
from schedverify.runner.p2p.messages import Crossing

_PART = "the boundary log"


def gather_log(
    plan: str, steps: Sequence[Sequence[BoundaryTransfer]], group: Any, timeout: float
) -> BoundaryLog | None:
    """Return on rank 0 the log of all ranks, None on the others. Every rank of the group calls it.

    Parameters
    ----------
    plan
        The digest of the plan.
    steps
        What left or reached the stages of this rank, by step of training.

    Raises
    ------
    TimedOutError
        If a rank does not come in time.
    RunError
        If something left one stage and did not reach the other as it was, or the other way round.
    """
    told = collect(json.dumps(steps), group, timeout, _PART)
    if told is None:
        return None
    by_rank = [[[_crossed(row) for row in step] for step in json.loads(text)] for text in told]
    joined = [_joined(each for theirs in by_rank for each in theirs[number]) for number in range(len(steps))]
    return BoundaryLog(plan, len(told), tuple(joined))


def _crossed(row: list[Any]) -> BoundaryTransfer:
    source, target, m, backward, outgoing, local, tensors, size, checksums = row
    shapes = tuple((dtype, tuple(shape)) for dtype, shape in tensors)
    return BoundaryTransfer(source, target, m, backward, outgoing, local, shapes, size, tuple(checksums))


def _joined(ends: Iterable[BoundaryTransfer]) -> tuple[BoundaryTransfer, ...]:
    """Return what left, in the order of boundary and micro-batch, once it is known to have reached the other side."""
    left: dict[tuple[Any, ...], BoundaryTransfer] = {}
    reached: dict[tuple[Any, ...], BoundaryTransfer] = {}
    for each in ends:
        (left if each.outgoing else reached)[each[:4]] = each
    for place in sorted({*left, *reached}):
        ends_of = [side[place]._replace(outgoing=True) if place in side else None for side in (left, reached)]
        if ends_of[0] != ends_of[1]:
            source, target, m, backward = place
            what = Crossing(source, target, m, backward, outgoing=True, local=False, tensors=())
            raise RunError(f"{what}: what left is {ends_of[0]}, what arrived {ends_of[1]}")
    return tuple(left[place] for place in sorted(left))
