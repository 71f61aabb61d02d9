"""Why there is no schedule: the limits that clash, and what would do in place of each."""

from __future__ import annotations

from typing import Final

from schedverify.core.explanation import Explanation, Relief
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Status
from schedverify.optimizer import Effort, Solution, least_peak, solve
from schedverify.planner.explanation.limits import FIELDS, by_stage, with_limit
from schedverify.simulator.engine import simulate

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
