"""What all ranks noted of a run, on rank 0: the trace, on one clock, and the boundary log, joined at both ends."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from schedverify.core.trace import BoundaryLog, BoundaryTransfer, RunTrace, StepSpan
from schedverify.runner.control.clock_sync import REFERENCE_CLOCK, Clock, Reading, aligned
from schedverify.runner.control.exchange import as_list, collect, whole
from schedverify.runner.failures import RunError
from schedverify.runner.p2p.messages import Name


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
    own = [[list(span[:5]) for span in aligned(step, clock)] for step in steps]

    def read(data: Any) -> tuple[int, list[list[StepSpan]]]:
        error, ran = as_list(data, 2)
        return whole(error), [list(map(_span_of, as_list(step))) for step in as_list(ran, len(steps))]

    found = collect([clock.error, own], group, timeout, "the trace of the run", read)
    if found is None:
        return None
    errors, by_rank = zip(*found, strict=True)
    merged = [tuple(span for run in by_rank for span in run[number]) for number in range(len(steps))]
    return RunTrace(plan, len(found), tuple(merged), errors)


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

    def read(data: Any) -> list[list[BoundaryTransfer]]:
        return [list(map(_transfer_of, as_list(step))) for step in as_list(data, len(steps))]

    by_rank = collect([list(step) for step in steps], group, timeout, "the boundary log", read)
    if by_rank is None:
        return None
    joined = [joined_ends(each for run in by_rank for each in run[number]) for number in range(len(steps))]
    return BoundaryLog(plan, len(by_rank), tuple(joined))


def _span_of(row: Any) -> StepSpan:
    rank, position, step, start, end = as_list(row, 5)
    return StepSpan(whole(rank), whole(position), _text(step), whole(start), whole(end))


def _transfer_of(row: Any) -> BoundaryTransfer:
    source, target, m, backward, outgoing, local, tensors, size, checksums = as_list(row, 9)
    shapes = tuple((_text(dtype), tuple(map(whole, as_list(shape)))) for dtype, shape in map(as_list, as_list(tensors)))
    sums = tuple(map(whole, as_list(checksums)))
    ends, flags = (whole(source), whole(target), whole(m)), (_flag(backward), _flag(outgoing), _flag(local))
    return BoundaryTransfer(*ends, *flags, shapes, whole(size), sums)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no text")
    return value


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError("neither true nor false")
    return value


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
            raise RunError(f"{Name(*place)}: what left is {ends_of[0]}, what arrived {ends_of[1]}")
    return tuple(left[place] for place in sorted(left))
