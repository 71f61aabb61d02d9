"""Composes: warm start from the families, optimizer, verifier, plan. No plan leaves before it is verified."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from schedverify.core.argument_types import check_types
from schedverify.core.discipline import DEFAULT_DISCIPLINE
from schedverify.core.errors import Fault, InputError, ScheduleError, SchedverifyError
from schedverify.core.problem import Problem
from schedverify.core.result import Lowered, Plan, Report, SecondaryObjective, Status
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Timeline
from schedverify.generators import families
from schedverify.optimizer import Effort, Hint, LexicographicResult, Progress, Solution, hint_of, minimize
from schedverify.planner.proved_lowering import proved_lowering
from schedverify.simulator.engine import simulate
from schedverify.verifier.verification import claims_of, verify

_NEEDED = ("SV1", "SV2", "SV4")
_LIMITS = ("SV306", "SV4")
"""What a lowering may break without a fault of ours: the problem's limits, and what it declares of boundaries."""


class Candidate(NamedTuple):
    """A family's schedule for a problem, what follows from it, and whether it keeps the problem's limits."""

    family: str
    timeline: Timeline
    report: Report


class RefusedPlanError(SchedverifyError):
    """A plan that the verifier does not pass: a fault of ours, never to be emitted."""


def candidates(problem: Problem) -> Iterator[Candidate]:
    """Yield the schedule of every family that suits the problem; a family may break the problem's limits."""
    for family in families():
        if family.suits(problem):
            schedule = family.generate(problem)
            yield Candidate(family.name, simulate(schedule, problem), verify(schedule, problem, select=_NEEDED))


def optimize(  # noqa: PLR0913 - each is a keyword of its own
    problem: Problem,
    *,
    objective: str | None = None,
    then: str | None = None,
    time_limit: float = 60,
    seed: int = 0,
    workers: int | None = None,
    solver_memory: int | None = None,
    hint: Schedule | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Plan:
    """Find the best schedule of a problem, and how far from optimal it can still be.

    Parameters
    ----------
    objective
        ``makespan``, ``span`` or ``peak-memory`` (the most bytes that any rank holds, static ones included); the
        problem's own by default.
    then
        What is minimized next, among the schedules that are best by ``objective``: ``peak-memory`` behind a time, a
        time behind ``peak-memory``. By default the problem's own, where ``objective`` is left to the problem as well.
    time_limit
        Seconds for the search.
    seed, workers
        One worker and a seed give the same plan wherever no part of the search meets its limit; all cores by default.
    solver_memory
        Bytes that this process may hold while the solver runs; at that, the search ends with the best so far.
    hint
        A valid schedule to begin with, beside those of the families.
    progress
        Called with every better value or bound.
    stop
        Set it to end the search early; the best so far is kept.

    Returns
    -------
    Plan
        Optimal, feasible, infeasible or unknown. Its schedule has passed the verifier, and so has that schedule with
        communication in it, for the discipline that the plan names. With a second objective it is
        optimal only where both values are proved.

    Raises
    ------
    InputError
        If the hint is no valid schedule of the problem, an objective is unknown, or a number is out of its range.
    UnsupportedError
        If the problem has something that the optimizer cannot take yet.
    """
    check_types("optimize", problem=(problem, Problem), hint=(hint, Schedule, type(None)))
    if objective is None:
        objective, then = problem.minimize, then or problem.then
    effort = Effort(time_limit, seed, workers, solver_memory, stop or threading.Event())
    hints = _hints(problem, hint)
    found = minimize(problem, objective=objective, then=then, effort=effort, hints=hints, progress=progress)
    return _passed(problem, found, (objective, then), seed, effort.spent)


def plan_of(schedule: Schedule, problem: Problem) -> Plan:
    """Return the plan of a given schedule, once the verifier has passed it: feasible, with no bound claimed.

    Communication that stands in the schedule is kept, for the default discipline; else it is added.

    Raises
    ------
    ScheduleError
        If the verifier objects, or no known lowering keeps the limits; the message tells every violation.
    """
    check_types("plan_of", schedule=(schedule, Schedule), problem=(problem, Problem))
    verify(schedule, problem, select=(*_NEEDED, "SV3")).raise_for_violations()
    objective = "makespan" if problem.minimize == "period" else problem.minimize
    given = simulate(schedule, problem) if schedule.lowered else None
    found = LexicographicResult(Solution(Status.FEASIBLE, schedule=schedule.compute_only()))
    plan = _passed(problem, found, (objective, None), 0, 0.0, given)
    if plan.lowered is None:
        raise ScheduleError(plan.reason)
    return plan


def verified(problem: Problem, found: Solution, *, seed: int = 0, seconds: float = 0.0) -> Plan:
    """Return the plan of what a search for the least makespan found, once the verifier has passed it.

    Raises
    ------
    RefusedPlanError
        If the verifier objects.
    """
    return _passed(problem, LexicographicResult(found), ("makespan", None), seed, seconds)


def _hints(problem: Problem, given: Schedule | None) -> list[Hint]:
    hints = [_starts(c.timeline) for c in candidates(problem) if c.report.ok]
    if given is None:
        return hints
    given = given.compute_only()
    report = verify(given, problem, select=_NEEDED)
    if not report.ok:
        raise InputError(
            [Fault("hint", str(violation), "a hint is a valid schedule") for violation in report.violations]
        )
    return [_starts(simulate(given, problem)), *hints]


def _starts(timeline: Timeline) -> Hint:
    return hint_of(timeline.schedule, (row.tolist() for row in timeline.starts))


def _passed(
    problem: Problem,
    found: LexicographicResult,
    objectives: tuple[str, str | None],
    seed: int,
    seconds: float,
    given: Timeline | None = None,
) -> Plan:
    """Make a plan of what was found and have it verified, claims and all, without and with communication."""
    first, second = found.first, found.second
    facts: dict[str, Any] = {"problem": problem, "objective": objectives[0], "seed": seed, "seconds": seconds}
    facts |= {
        "status": found.status,
        "bound": first.bound,
        "certificate": first.evidence,
        "reason": found.reason,
        "parts": found.parts,
        "partition": problem.partition or None,
    }
    if found.schedule is None:
        return Plan(**facts)
    timeline = simulate(found.schedule, problem)
    if problem.makespan_limit is not None and timeline.makespan > problem.makespan_limit:
        text = f"the makespan is {timeline.makespan}, limits.makespan is {problem.makespan_limit}"
        raise RefusedPlanError(f"the optimizer passed a limit; please report this: {text}")
    then = None
    if objectives[1] is not None and second is not None:
        value = timeline.measures.value(objectives[1])
        then = SecondaryObjective(objectives[1], value, second.bound, second.evidence)
    plan = Plan(
        **facts,
        schedule=found.schedule,
        starts=tuple(tuple(row.tolist()) for row in timeline.starts),
        measures=timeline.measures,
        value=timeline.measures.value(objectives[0]),
        then=then,
    )
    report = verify(found.schedule, problem, claims=claims_of(plan))
    if report.violations:
        text = "\n".join(map(str, report.violations))
        raise RefusedPlanError(f"the verifier refuses what the optimizer found; please report this:\n{text}")
    verdicts = {p.code: p.verdict for p in report.properties}
    return _with_communication(dataclasses.replace(plan, verdicts=verdicts), given)


def _with_communication(plan: Plan, given: Timeline | None) -> Plan:
    """Lower a plan for the default discipline (unless it is given lowered), and have that verified as well.

    Where messages break a limit (what is received leaves too little memory, say), the plan stays without them, and its
    reason says so.
    """
    if plan.schedule is None:
        return plan
    timeline = given or proved_lowering(plan.schedule, plan.problem, DEFAULT_DISCIPLINE)
    measures, order = timeline.measures, timeline.schedule
    lowered = Lowered(order, DEFAULT_DISCIPLINE, 0, measures)
    report = verify(order, plan.problem, discipline=lowered.discipline, claims=dataclasses.asdict(measures))
    if any(not violation.code.startswith(_LIMITS) for violation in report.violations):
        text = "\n".join(map(str, report.violations))
        raise RefusedPlanError(f"the verifier refuses what was lowered; please report this:\n{text}")
    if report.violations:
        text = "; ".join(violation.message for violation in report.violations)
        reason = f"no known lowering of it keeps the limits: {text}"
        return dataclasses.replace(plan, reason="; ".join(filter(None, (plan.reason, reason))))
    communication = {p.code: p.verdict for p in report.properties if p.code.startswith("SV3")}
    return dataclasses.replace(plan, lowered=lowered, verdicts={**plan.verdicts, **communication})
