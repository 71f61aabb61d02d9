"""What all ranks noted of a run, on rank 0: the trace, on one clock, and the boundary log, joined at both ends."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from schedverify.core.trace import BoundaryLog, BoundaryTransfer, RunTrace, StepSpan
from schedverify.runner.control.clock_sync import REFERENCE_CLOCK, Clock, Reading, aligned
from schedverify.runner.control.exchange import collect
from schedverify.runner.failures import RunError
from schedverify.runner.p2p.messages import Crossing


def gather_trace(
    plan: str,
    steps: Sequence[Sequence[StepSpan]],
    readings: tuple[Reading | None, Reading | None],
    group: Any,
    timeout: float,
) -> RunTrace | None:
    """Return on rank 0 the spans of all ranks, on one clock; None on the others. Every rank of the group calls it.

    Parameters
    ----------
    plan
        The digest of the plan.
    steps
        By step of training, the spans of this rank, in nanoseconds on its own clock.
    readings
        The results of :func:`read_clock` before the first of them and after the last.

    Raises
    ------
    TimedOutError
        If a rank does not come in time.
    """
    before, after = readings
    clock = Clock(before, after) if before is not None and after is not None else REFERENCE_CLOCK
    own = [[list(span) for span in aligned(step, clock)] for step in steps]
    texts = collect(json.dumps([clock.error, own]), group, timeout, "the trace of the run")
    if texts is None:
        return None
    errors, by_rank = zip(*map(json.loads, texts), strict=True)
    merged = [tuple(StepSpan(*span) for run in by_rank for span in run[number]) for number in range(len(steps))]
    return RunTrace(plan, len(texts), tuple(merged), errors)


def gather_log(
    plan: str, steps: Sequence[Sequence[BoundaryTransfer]], group: Any, timeout: float
) -> BoundaryLog | None:
    """Return on rank 0 the log of all ranks, None on the others. Every rank of the group calls it.

    Parameters
    ----------
    plan
        The digest of the plan.
    steps
        By step of training, the transfers that left or reached the stages of this rank.

    Raises
    ------
    TimedOutError
        If a rank does not come in time.
    RunError
        If something left one stage and did not reach the other as it was, or the other way round.
    """
    texts = collect(json.dumps(steps), group, timeout, "the boundary log")
    if texts is None:
        return None
    by_rank = [[[_transfer_of(row) for row in step] for step in json.loads(text)] for text in texts]
    joined = [joined_ends(each for run in by_rank for each in run[number]) for number in range(len(steps))]
    return BoundaryLog(plan, len(texts), tuple(joined))


def _transfer_of(row: list[Any]) -> BoundaryTransfer:
    source, target, m, backward, outgoing, local, tensors, size, checksums = row
    shapes = tuple((dtype, tuple(shape)) for dtype, shape in tensors)
    return BoundaryTransfer(source, target, m, backward, outgoing, local, shapes, size, tuple(checksums))


def joined_ends(ends: Iterable[BoundaryTransfer]) -> tuple[BoundaryTransfer, ...]:
    """Return the transfers of one step, by boundary and micro-batch, each once: both ends of it must be the same.

    Raises
    ------
    RunError
        If an end is missing, or the ends differ.
    """
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
