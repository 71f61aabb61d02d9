"""Whether a run followed its plan: the order on each rank, each hand-over, and what was in flight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import Final, NamedTuple

from schedverify.conformance.dependency_check import ops_of, too_early
from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.core.trace import RunTrace, StepSpan

_MOST_TOLD: Final = 50


class Departure(NamedTuple):
    """One thing in which a run did not follow its plan."""

    what: str
    """``order``, ``hand-over`` or ``in flight``."""
    step: int
    """The step of training, from 0."""
    rank: int
    position: int | None
    message: str

    def __str__(self) -> str:
        return f"step {self.step}, {self.message}"


def departures(schedule: Schedule, problem: Problem, trace: RunTrace, most: Sequence[int]) -> list[Departure]:
    """Return where a run did not follow a lowered schedule; the first :data:`_MOST_TOLD` of each step of training.

    Parameters
    ----------
    most
        By rank, the micro-batches that may be in flight.
    """
    found: list[Departure] = []
    for number, step in enumerate(trace.steps):
        early = too_early(problem, step, trace.errors)
        handed = (Departure("hand-over", number, ran.rank, ran.position, message) for ran, message in early)
        told = [*_order(schedule, step, number), *handed, *_in_flight(problem, step, number, most)]
        found += told[:_MOST_TOLD]
    return found


def peaks(problem: Problem, step: Sequence[StepSpan]) -> list[int]:
    """Return by rank the most pairs of stage and micro-batch in flight (semantics, SV401).

    A pair is in flight from the start of its F to the end of its B or I; in inference to the end of its F.
    """
    inference = problem.form == "inference"
    changes: list[list[tuple[int, int, int]]] = [[] for _ in range(problem.ranks)]
    for ran in step:
        for op in ops_of(ran.step):
            if op.kind is Kind.F:
                changes[ran.rank].append((ran.start, ran.position, 1))
            if op.kind in (Kind.B, Kind.I) or (inference and op.kind is Kind.F):
                changes[ran.rank].append((ran.end, ran.position, -1))
    return [_most(each) for each in changes]


def _most(changes: list[tuple[int, int, int]]) -> int:
    """Return the highest count, with changes of one moment in the order of their positions, begins before ends."""
    held = accumulate(change for _, _, change in sorted(changes, key=lambda each: (each[0], each[1], -each[2])))
    return max(held, default=0)


def _order(schedule: Schedule, step: Sequence[StepSpan], number: int) -> Iterator[Departure]:
    """Tell what ran elsewhere than planned, twice, never, or before the compute step in front of it had ended."""
    for rank, wanted in enumerate(schedule.strings()):
        ran = {each.position: each for each in step if each.rank == rank}
        if len(ran) < sum(each.rank == rank for each in step):
            yield Departure("order", number, rank, None, f"rank {rank}: a position ran twice")
        for position, text in enumerate(wanted):
            if position not in ran:
                yield Departure(
                    "order", number, rank, position, f"rank {rank}, position {position} ({text}): never ran"
                )
            elif ran[position].step != text:
                told = f"rank {rank}, position {position} ({text}): {ran[position].step} ran there"
                yield Departure("order", number, rank, position, told)
        for position in sorted(set(ran) - set(range(len(wanted)))):
            told = f"rank {rank}, position {position} ({ran[position].step}): the plan ends before it"
            yield Departure("order", number, rank, position, told)
        computed = [each for _, each in sorted(ran.items()) if ops_of(each.step)[0].kind.is_compute]
        for before, after in pairwise(computed):
            if after.start < before.end:
                told = f"rank {rank}, position {after.position} ({after.step}): began before {before.step} had ended"
                yield Departure("order", number, rank, after.position, told)


def _in_flight(problem: Problem, step: Sequence[StepSpan], number: int, most: Sequence[int]) -> Iterator[Departure]:
    for rank, (found, allowed) in enumerate(zip(peaks(problem, step), most, strict=True)):
        if found > allowed:
            told = f"rank {rank}: {found} micro-batches were in flight, the plan has at most {allowed}"
            yield Departure("in flight", number, rank, None, told)
