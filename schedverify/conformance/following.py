"""Whether a run followed its plan: the order on each rank, each hand-over, and what was in flight."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import Final, NamedTuple

from schedverify.op import Kind, Op, pack_step, unpack
from schedverify.problem import Problem
from schedverify.ran import Ran, RunTrace
from schedverify.schedule import Schedule

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
        told = [*_order(schedule, step, number), *_handed(problem, step, number, trace.errors),
                *_in_flight(step, number, most)]  # fmt: skip
        found += told[:_MOST_TOLD]
    return found


def peaks(step: Sequence[Ran], ranks: int) -> list[int]:
    """Return by rank the most pairs of stage and micro-batch between their F's start and their B's or I's end."""
    found = [0] * ranks
    left = {(op.stage, op.microbatch) for ran in step for op in ops_of(ran.step) if op.kind in (Kind.B, Kind.I)}
    for rank in range(ranks):
        changes: list[tuple[int, int]] = []
        for ran in step:
            for op in ops_of(ran.step) if ran.rank == rank else ():
                if op.kind is Kind.F:
                    changes.append((ran.start, 1))
                    changes += [] if (op.stage, op.microbatch) in left else [(ran.end, -1)]
                elif op.kind in (Kind.B, Kind.I):
                    changes.append((ran.end, -1))
        held = 0
        for _, change in sorted(changes):
            held += change
            found[rank] = max(found[rank], held)
    return found


def ops_of(step: str) -> tuple[Op, ...]:
    """Return the operations of a step's text."""
    return tuple(map(unpack, pack_step(step)))


def _order(schedule: Schedule, step: Sequence[Ran], number: int) -> Iterator[Departure]:
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


def _handed(problem: Problem, step: Sequence[Ran], number: int, errors: Sequence[int]) -> Iterator[Departure]:
    """Tell which step began before what it reads was made, by more than the clocks may differ."""
    made: dict[Op, Ran] = {}
    for ran in step:
        for op in ops_of(ran.step):
            if op.kind.is_compute:
                made.setdefault(op, ran)
    for op, ran in made.items():
        for needed in _needed(problem, op):
            source = made.get(needed)
            if source is None or source is ran:
                continue
            slack = 0 if source.rank == ran.rank else errors[source.rank] + errors[ran.rank]
            if ran.start + slack < source.end:
                early = (source.end - ran.start) / 1000
                told = (
                    f"rank {ran.rank}, position {ran.position} ({op}): began {early:.1f} us before {needed} had ended"
                )
                yield Departure("hand-over", number, ran.rank, ran.position, f"{told} on rank {source.rank}")


def _needed(problem: Problem, op: Op) -> Iterator[Op]:
    """Return what an operation reads: the F before it, its own F, the gradients behind it, its own I."""
    if op.stage >= problem.total_stages:
        return
    if op.kind is Kind.F:
        yield from (op._replace(stage=stage) for stage in problem.predecessors[op.stage])
    elif op.kind is Kind.W:
        yield op._replace(kind=Kind.I)
    else:
        yield op._replace(kind=Kind.F)
        for stage in problem.successors[op.stage]:
            yield from (op._replace(stage=stage, kind=kind) for kind in (Kind.B, Kind.I))


def _in_flight(step: Sequence[Ran], number: int, most: Sequence[int]) -> Iterator[Departure]:
    for rank, (found, allowed) in enumerate(zip(peaks(step, len(most)), most, strict=True)):
        if found > allowed:
            told = f"rank {rank}: {found} micro-batches were in flight, the plan has at most {allowed}"
            yield Departure("in flight", number, rank, None, told)
