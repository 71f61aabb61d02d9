"""Composes: warm start from the families, optimizer, verifier, plan. No plan leaves before it is verified."""

from __future__ import annotations

import dataclasses
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from schedverify.errors import Fault, InputError, SchedverifyError
from schedverify.generators import families
from schedverify.optimizer import Hint, Progress, Solution, solve
from schedverify.problem import Problem
from schedverify.result import Plan, Report, Status, Timeline, Verdict
from schedverify.schedule import Schedule
from schedverify.timeline import simulate
from schedverify.verifier import claims_of, verify

_NEEDED = ("SV1", "SV2", "SV4")


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


def optimize(
    problem: Problem,
    *,
    objective: str | None = None,
    time_limit: float = 60,
    seed: int = 0,
    workers: int | None = None,
    hint: Schedule | None = None,
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Plan:
    """Find the best schedule of a problem, and how far from optimal it can still be.

    Parameters
    ----------
    objective
        ``makespan`` or ``span``; the problem's own by default.
    time_limit
        Seconds for the search.
    seed, workers
        One worker and a seed give the same plan wherever the search ends before its limit; all cores by default.
    hint
        A valid schedule to begin with, beside those of the families.
    progress
        Called with every better value or bound.
    stop
        Set it to end the search early; the best so far is kept.

    Returns
    -------
    Plan
        Optimal, feasible, infeasible or unknown. Its schedule has passed the verifier.

    Raises
    ------
    InputError
        If the hint is no valid schedule of the problem, or the objective is unknown.
    UnsupportedError
        If the problem has something that the optimizer cannot take yet.
    """
    began = time.monotonic()
    solution = solve(
        problem,
        objective=objective or problem.minimize,
        time_limit=time_limit,
        seed=seed,
        workers=workers,
        hints=_hints(problem, hint),
        progress=progress,
        stop=stop,
    )
    return _passed(problem, solution, objective or problem.minimize, seed, time.monotonic() - began)


def plan_of(schedule: Schedule, problem: Problem) -> Plan:
    """Return the plan of a given schedule, once the verifier has passed it: feasible, with no bound claimed.

    Raises
    ------
    ScheduleError
        If the verifier objects; the message tells every violation.
    """
    verify(schedule, problem, select=_NEEDED).raise_for_violations()
    objective = "span" if problem.minimize == "span" else "makespan"
    timeline = simulate(schedule, problem)
    value = getattr(timeline.measures, objective)
    return _passed(problem, Solution(Status.FEASIBLE, schedule=schedule, value=value), objective, 0, 0.0)


def _hints(problem: Problem, given: Schedule | None) -> list[Hint]:
    hints = [_starts(c.timeline) for c in candidates(problem) if c.report.ok]
    if given is None:
        return hints
    report = verify(given, problem, select=_NEEDED)
    if not report.ok:
        raise InputError(
            [Fault("hint", str(violation), "a hint is a valid schedule") for violation in report.violations]
        )
    return [_starts(simulate(given, problem)), *hints]


def _starts(timeline: Timeline) -> Hint:
    """Return the start of every operation as plain numbers, by kind letter, stage and micro-batch."""
    starts: Hint = {}
    for rank, ticks in enumerate(timeline.starts):
        for step, tick in zip(timeline.schedule.steps(rank), ticks.tolist(), strict=True):
            for op in step.ops:
                starts[op.kind.name, op.stage, op.microbatch or 0] = tick
    return starts


def _passed(problem: Problem, solution: Solution, objective: str, seed: int, seconds: float) -> Plan:
    """Make a plan of a solution and have it verified, claims and all."""
    facts: dict[str, Any] = {"problem": problem, "status": solution.status, "objective": objective, "seed": seed}
    facts |= {"bound": solution.bound, "certificate": solution.evidence, "reason": solution.reason, "seconds": seconds}
    if solution.schedule is None:
        return Plan(**facts)
    timeline = simulate(solution.schedule, problem)
    plan = Plan(
        **facts,
        schedule=solution.schedule,
        starts=tuple(tuple(row.tolist()) for row in timeline.starts),
        measures=timeline.measures,
        value=solution.value,
    )
    report = verify(solution.schedule, problem, claims=claims_of(plan))
    if report.violations:
        text = "\n".join(map(str, report.violations))
        raise RefusedPlanError(f"the verifier refuses what the optimizer found; please report this:\n{text}")
    verdicts: tuple[tuple[str, Verdict], ...] = tuple((p.code, p.verdict) for p in report.properties)
    return dataclasses.replace(plan, verdicts=verdicts)
