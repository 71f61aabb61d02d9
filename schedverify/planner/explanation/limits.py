"""The limits of a problem, and which of them a schedule uses up."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, Final, NamedTuple

from schedverify.core.explanation import Explanation, Relief
from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Status
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Measures
from schedverify.optimizer import Effort, Solution, least_peak, solve
from schedverify.simulator.engine import simulate

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


ANY: Final = 1 << 62
"""More ticks than any makespan."""


def conflict(plan: Plan, effort: Effort) -> Explanation:
    """Explain a plan that is proved infeasible.

    Limits are left out one by one: what stays infeasible without a limit does not need it. Those that are left clash by
    themselves; where none of these searches stayed open, each is needed. Only more of one of them can help, so for each
    the least value is searched with which there is a schedule, the others (all of them) being as they are.
    """
    clash = [name for name, field in FIELDS.items() if getattr(plan.problem, field) is not None]
    doubtful, searches = [], 2 * len(clash)
    for name in list(clash):
        rest = without(plan.problem, [other for other in FIELDS if other not in clash or other == name])
        status = feasible(rest, effort.part(1 / searches)).status
        if status is Status.INFEASIBLE:
            clash.remove(name)
            searches -= 1
        doubtful += [name] if status is Status.UNKNOWN else []
        searches -= 1
    reliefs = []
    for left, name in zip(range(len(clash), 0, -1), clash, strict=True):
        reliefs.append(relief(plan.problem, name, effort.part(1 / left)))
    remarks = [] if clash else [plan.reason]
    remarks += [f"whether the others clash without {name} is open" for name in doubtful]
    return Explanation(
        plan.status, plan.objective, clash=tuple(clash), minimal=not doubtful, reliefs=tuple(reliefs),
        remarks=tuple(remarks),
    )  # fmt: skip


def without(problem: Problem, names: list[str]) -> Problem:
    """Return the problem without some of its limits."""
    for name in names:
        problem = with_limit(problem, name, None)
    return problem


def feasible(problem: Problem, effort: Effort) -> Solution:
    """Search for any schedule at all."""
    return solve(problem, effort=effort, within=ANY)


def relief(problem: Problem, name: str, effort: Effort) -> Relief:
    """Return the least value of a limit with which there is a schedule."""
    free = without(problem, [name])
    if name in ("memory.capacity", "limits.makespan"):
        found = least_peak(free, effort=effort) if name == "memory.capacity" else solve(free, effort=effort)
        if found.status is Status.INFEASIBLE:
            return Relief(name, None, None)
        return Relief(name, found.value, found.bound or 0)
    return _least_in_flight(free, name, effort)


def _least_in_flight(free: Problem, name: str, effort: Effort) -> Relief:
    """Halve the limits in flight, alike for all ranks or stages; one that stays open is put aside for larger ones."""
    found = feasible(free, effort.part(0.5))
    if found.status is Status.INFEASIBLE:
        return Relief(name, None, None)
    size = free.ranks if name == "limits.in_flight" else free.total_stages
    proved, floor, best = 1, 1, _most_in_flight(free, found, name)
    while (best is None or floor < best) and not effort.over:
        middle = floor if best is None else (floor + best) // 2
        found = feasible(with_limit(free, name, (middle,) * size), effort.part(0.5))
        if found.status is Status.INFEASIBLE:
            proved = middle + 1
        if found.schedule is None:
            floor = middle + 1
        else:
            best = _most_in_flight(free, found, name)
    return Relief(name, best, proved)


def _most_in_flight(problem: Problem, found: Solution, name: str) -> int | None:
    """Return the most in flight on a rank or stage of a schedule, at least 1; None without one."""
    if found.schedule is None:
        return None
    if name == "limits.in_flight":
        return max(1, *simulate(found.schedule, problem).peak_in_flight)
    return max(1, *by_stage(problem, found.schedule))
