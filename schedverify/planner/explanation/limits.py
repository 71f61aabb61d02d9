"""The limits of a problem: which of them a schedule uses up, and which clash where there is no schedule."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any, Final, NamedTuple

from schedverify.core.explanation import Explanation, Relief
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Status
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Measures
from schedverify.optimizer import Effort, Solution, least_peak, solve
from schedverify.planner.rivals import in_flight_by_stage
from schedverify.simulator.engine import simulate

FIELDS: Final = {
    "memory.capacity": "capacity",
    "limits.in_flight": "in_flight",
    "limits.in_flight_stage": "in_flight_stage",
    "limits.makespan": "makespan_limit",
}
"""The key of each limit in a problem file, and its name in a Problem."""
NO_LIMIT: Final = 1 << 62
"""More ticks than any makespan."""


class UsedUpLimit(NamedTuple):
    """A limit that a schedule uses up.

    Attributes
    ----------
    name
        The key of the limit in a problem file, one of :data:`FIELDS`.
    place
        The rank or stage that the limit is of; None for a limit of the whole schedule.
    value, step
        The limit, and by how much it would have to grow to admit one more activation, micro-batch or tick.
    text
        A sentence that says what is used up.
    """

    name: str
    place: int | None
    value: int
    step: int
    text: str


def with_limit(problem: Problem, name: str, value: Any) -> Problem:
    """Return the problem with another value of one limit, or without it."""
    changed: dict[str, Any] = {FIELDS[name]: value}
    return replace(problem, **changed)


def used_up_limits(problem: Problem, schedule: Schedule, measures: Measures) -> Iterator[UsedUpLimit]:
    """Yield every limit that leaves no room for one more activation, micro-batch or tick."""
    yield from _used_up_capacities(problem, measures)
    yield from _used_up_in_flight("limits.in_flight", "rank", problem.in_flight or (), measures.peak_in_flight)
    by_stage = in_flight_by_stage(problem, schedule) if problem.in_flight_stage is not None else ()
    yield from _used_up_in_flight("limits.in_flight_stage", "stage", problem.in_flight_stage or (), by_stage)
    limit = problem.makespan_limit
    if limit is not None and measures.makespan == limit:
        text = f"the makespan is {problem.units.time(limit)}, its limit"
        yield UsedUpLimit("limits.makespan", None, limit, 1, text)


def _used_up_capacities(problem: Problem, measures: Measures) -> Iterator[UsedUpLimit]:
    """Yield the capacity of each rank that has no room for one more activation of any of its stages."""
    for rank, (capacity, peak) in enumerate(zip(problem.capacity or (), measures.peak_memory, strict=False)):
        amounts = [
            problem.saved_activation_bytes[stage]
            for stage in problem.stages_of[rank]
            if problem.saved_activation_bytes[stage]
        ]
        if amounts and peak + min(amounts) > capacity:
            held, least = map(problem.units.size, (peak, min(amounts)))
            room = f"{held} of {problem.units.given(capacity)}"
            text = f"rank {rank} holds {room}: no room for one more activation ({least})"
            yield UsedUpLimit("memory.capacity", rank, capacity, max(amounts), text)


def _used_up_in_flight(name: str, kind: str, limits: Sequence[int], peaks: Sequence[int]) -> Iterator[UsedUpLimit]:
    """Yield the limits in flight that are reached, of ranks or of stages (``kind``)."""
    for place, (limit, peak) in enumerate(zip(limits, peaks, strict=False)):
        if peak == limit:
            yield UsedUpLimit(name, place, limit, 1, f"{kind} {place} has {limit} in flight, its limit")


def explain_conflict(plan: Plan, effort: Effort) -> Explanation:
    """Explain a plan that is proved infeasible.

    Limits are left out one by one: what stays infeasible without a limit does not need it. Those that are left clash by
    themselves; where none of these searches stayed open, each is needed. Only more of one of them can help, so for each
    the least value is searched with which there is a schedule, the others (all of them) being as they are.
    """
    clash = [name for name, field in FIELDS.items() if getattr(plan.problem, field) is not None]
    undecided, searches = [], 2 * len(clash)
    for name in list(clash):
        rest = without_limits(plan.problem, [other for other in FIELDS if other not in clash or other == name])
        status = any_schedule(rest, effort.part(1 / searches)).status
        if status is Status.INFEASIBLE:
            clash.remove(name)
            searches -= 1
        undecided += [name] if status is Status.UNKNOWN else []
        searches -= 1
    shares = zip(range(len(clash), 0, -1), clash, strict=True)
    reliefs = tuple(relief(plan.problem, name, effort.part(1 / left)) for left, name in shares)
    remarks = [] if clash else [plan.reason]
    remarks += [f"whether the others clash without {name} is open" for name in undecided]
    return Explanation(
        plan.status, plan.objective, tuple(clash), not undecided, reliefs, remarks=tuple(remarks),
        units=plan.problem.units,
    )  # fmt: skip


def without_limits(problem: Problem, names: list[str]) -> Problem:
    """Return the problem without some of its limits."""
    changed: dict[str, Any] = {FIELDS[name]: None for name in names}
    return replace(problem, **changed)


def any_schedule(problem: Problem, effort: Effort) -> Solution:
    """Search for any schedule at all."""
    return solve(problem, effort=effort, within=NO_LIMIT)


def relief(problem: Problem, name: str, effort: Effort) -> Relief:
    """Return the least value of a limit with which there is a schedule."""
    free = without_limits(problem, [name])
    if name in ("memory.capacity", "limits.makespan"):
        found = least_peak(free, effort=effort) if name == "memory.capacity" else solve(free, effort=effort)
        if found.status is Status.INFEASIBLE:
            return Relief(name, None, None)
        return Relief(name, found.value, found.bound or 0)
    return _least_in_flight(free, name, effort)


def _least_in_flight(free: Problem, name: str, effort: Effort) -> Relief:
    """Search the least limit in flight, the same for all ranks or stages, by halving.

    Every limit below ``proved`` is proved too small, ``floor`` is the least one still to be tried, and ``best`` the
    least with a schedule so far. A limit that stays open raises ``floor`` alone: larger ones are tried first.
    """
    found = any_schedule(free, effort.part(0.5))
    if found.status is Status.INFEASIBLE:
        return Relief(name, None, None)
    size = free.ranks if name == "limits.in_flight" else free.total_stages
    proved, floor, best = 1, 1, _most_in_flight(free, found, name)
    while (best is None or floor < best) and not effort.over:
        middle = floor if best is None else (floor + best) // 2
        found = any_schedule(with_limit(free, name, (middle,) * size), effort.part(0.5))
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
    return max(1, *in_flight_by_stage(problem, found.schedule))
