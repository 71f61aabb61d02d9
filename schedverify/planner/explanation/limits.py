"""The limits of a problem, and which of them a schedule uses up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final, NamedTuple

from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Measures

FIELDS: Final = {
    "memory.capacity": "capacity",
    "limits.in_flight": "in_flight",
    "limits.in_flight_stage": "in_flight_stage",
    "limits.makespan": "makespan_limit",
}
"""The key of each limit in a problem file, and its name in a Problem."""


class Full(NamedTuple):
    """A limit that a schedule uses up.

    Attributes
    ----------
    place
        The rank or stage; None for the whole.
    given, step
        The limit, and the least that more of it would have to be to admit one more.
    """

    limit: str
    place: int | None
    given: int
    step: int
    told: str


def with_limit(problem: Problem, name: str, value: Any) -> Problem:
    """Return the problem with another value of one limit, or without it."""
    changed: dict[str, Any] = {FIELDS[name]: value}
    return replace(problem, **changed)


def full_limits(problem: Problem, schedule: Schedule, measures: Measures) -> Iterator[Full]:
    """Yield every limit that leaves no room for one more activation, micro-batch or tick."""
    yield from _full_capacities(problem, measures)
    for rank, (limit, held) in enumerate(zip(problem.in_flight or (), measures.peak_in_flight, strict=False)):
        if held == limit:
            yield Full("limits.in_flight", rank, limit, 1, f"rank {rank} has {limit} in flight, its limit")
    if problem.in_flight_stage is not None:
        for stage, (limit, held) in enumerate(zip(problem.in_flight_stage, by_stage(problem, schedule), strict=True)):
            if held == limit:
                yield Full("limits.in_flight_stage", stage, limit, 1, f"stage {stage} has {limit} in flight, its limit")
    if problem.makespan_limit is not None and measures.makespan == problem.makespan_limit:
        limit = problem.makespan_limit
        yield Full("limits.makespan", None, limit, 1, f"the makespan is {limit}, its limit")


def _full_capacities(problem: Problem, measures: Measures) -> Iterator[Full]:
    for rank, (capacity, held) in enumerate(zip(problem.capacity or (), measures.peak_memory, strict=False)):
        amounts = [problem.kept[stage] for stage in problem.stages_of[rank] if problem.kept[stage]]
        if amounts and held + min(amounts) > capacity:
            told = f"rank {rank} holds {held} of {capacity} bytes: no room for one more activation ({min(amounts)})"
            yield Full("memory.capacity", rank, capacity, max(amounts), told)


def by_stage(problem: Problem, schedule: Schedule) -> list[int]:
    """Return for each stage the most micro-batches in flight."""
    most = [0] * problem.total_stages
    for rank in range(schedule.ranks):
        now = dict.fromkeys(problem.stages_of[rank], 0)
        for step in schedule.steps(rank):
            for op in step.ops:
                now[op.stage] += {Kind.F: 1, Kind.B: -1, Kind.I: -1}.get(op.kind, 0)
                most[op.stage] = max(most[op.stage], now[op.stage])
    return most
