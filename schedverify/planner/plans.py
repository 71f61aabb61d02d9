"""Makes plans: warm starts from the families, optimizer, lowering, verifier. No plan leaves before it is verified."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable
from typing import Final

from schedverify.core.argument_types import check_types
from schedverify.core.discipline import DEFAULT_DISCIPLINE
from schedverify.core.errors import Fault, InputError, ScheduleError, SchedverifyError
from schedverify.core.problem import Problem
from schedverify.core.result import Lowered, Plan, Report, SecondaryObjective, Status, Verdict
from schedverify.core.schedule import Schedule, check_ranks
from schedverify.core.timeline import Timeline
from schedverify.optimizer import Effort, Hint, LexicographicResult, Progress, Solution, minimize
from schedverify.planner.proved_lowering import ProvedLowering, proved_lowering
from schedverify.planner.warm_starts import NEEDED, starts_of, timeline_of, warm_starts
from schedverify.verifier.claims import claims_of
from schedverify.verifier.plan_report import joined
from schedverify.verifier.rules import Case
from schedverify.verifier.verification import verify, verify_case

_LOWERING_SECONDS: Final = 5
"""After so many seconds, or a wish to stop, the best lowering so far is taken."""
_STOPPED_SECONDS: Final = 0.5
"""The same where the search was stopped already."""
_LIMITS: Final = ("SV306", "SV4", "SV503")
"""What a lowering may break without a fault of ours: the problem's limits, and what it declares of boundaries."""


class RefusedPlanError(SchedverifyError):
    """A plan that the verifier does not pass: a fault of ours, never to be emitted."""


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

    Of the schedules of equal value that it comes upon, the families' among them, it takes the one with the least peak
    memory: the bytes of the fullest rank count first (where they are minimized, the makespan comes next), then those of
    the next one, and so on. Only ``then`` searches for less.

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
        Called with every better value or bound, and where another part of the search begins.
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
    tell = progress or (lambda _: None)
    tell(Progress(effort.spent, None, 0, "families"))
    hints, results = warm_starts(problem, objective, effort)
    if hint is not None:
        hints.insert(0, _checked_hint(hint, problem))
    found = minimize(problem, objective=objective, then=then, effort=effort, hints=hints, progress=progress)
    del hints  # of a large problem more than all that follows
    draft = _draft(problem, found, objective, seed, effort.spent)
    tell(Progress(effort.spent, found.value, draft.bound or 0, "lowering and verifying"))
    return _verified(dataclasses.replace(draft, families=results), found, then, over=_patience(effort))


def plan_of(schedule: Schedule, problem: Problem) -> Plan:
    """Return the plan of a given schedule, once the verifier has passed it: feasible, with no bound claimed.

    Communication that stands in the schedule is kept, for the default discipline; else it is added.

    Raises
    ------
    ScheduleError
        If the verifier objects, or no known lowering keeps the limits; the message tells every violation.
    """
    check_types("plan_of", schedule=(schedule, Schedule), problem=(problem, Problem))
    check_ranks(schedule, problem.ranks)
    objective = "makespan" if problem.minimize == "period" else problem.minimize
    found = LexicographicResult(Solution(Status.FEASIBLE, schedule=schedule.compute_only()))
    draft = _draft(problem, found, objective, seed=0, seconds=0.0)
    if schedule.lowered:
        plan = _verified(draft, found, None, lowering=_given_lowering(schedule, problem))
    else:
        plan = _verified(draft, found, None, of_caller=True)
    if plan.lowered is None:
        raise ScheduleError(plan.reason)
    return plan


def _patience(effort: Effort) -> Callable[[], bool]:
    """Return what says that no further lowering is tried: what a search has found is lowered behind its own time."""
    if effort.stopped:
        return Effort(_STOPPED_SECONDS).is_over
    return Effort(_LOWERING_SECONDS, stop=effort.stop).is_over


def verified(problem: Problem, found: Solution, effort: Effort) -> Plan:
    """Return the plan of what a search for the least makespan found, once the verifier has passed it.

    Raises
    ------
    RefusedPlanError
        If the verifier objects.
    """
    result = LexicographicResult(found)
    draft = _draft(problem, result, "makespan", effort.seed, effort.spent)
    return _verified(draft, result, None, over=_patience(effort))


def _checked_hint(given: Schedule, problem: Problem) -> Hint:
    """Return the starts of a schedule that the caller gives to begin with; raise where it is not valid."""
    report = verify(given.compute_only(), problem, select=NEEDED)
    if not report.ok:
        raise InputError([Fault("hint", str(broken), "a hint is a valid schedule") for broken in report.violations])
    return starts_of(timeline_of(report))


def _draft(problem: Problem, found: LexicographicResult, objective: str, seed: int, seconds: float) -> Plan:
    """Return what a search says besides its schedule: a plan that claims no value, because nothing is verified yet."""
    return Plan(
        problem, found.status, objective, bound=found.first.bound, certificate=found.first.evidence, seed=seed,
        partition=problem.partition or None, reason=found.reason, seconds=seconds, parts=found.parts,
    )  # fmt: skip


def _verified(
    draft: Plan,
    found: LexicographicResult,
    then: str | None,
    *,
    of_caller: bool = False,
    lowering: ProvedLowering | None = None,
    over: Callable[[], bool] = lambda: False,
) -> Plan:
    """Complete a draft by the schedule that was found, once the verifier has passed both and the lowered schedule.

    Parameters
    ----------
    then
        The second objective, or None.
    of_caller
        Whether the schedule is the caller's: what is wrong with it is then no fault of ours.
    lowering
        The schedule with the communication that the caller gave it.
    over
        Whether no further lowering should be tried.
    """
    if found.schedule is None:
        return _without_schedule(draft)
    case = Case(found.schedule, draft.problem)
    timeline = case.timeline
    plan = draft if timeline is None else _timed(draft, timeline, found.second, then)
    report = verify_case(case.claiming(claims_of(plan)))
    if of_caller:
        _raise_for_caller(report)
    if timeline is None or report.violations:
        raise _refusal("the optimizer found", report)
    return _with_communication(plan, report, lowering or proved_lowering(timeline, DEFAULT_DISCIPLINE, over=over))


def _without_schedule(plan: Plan) -> Plan:
    """Return a plan without a schedule, and where it is that there is none, with what the verifier says of that."""
    if plan.status is not Status.INFEASIBLE:
        return plan
    report = verify(plan)
    if report.violations:
        raise _refusal("the optimizer found", report)
    return dataclasses.replace(plan, verdicts=_verdicts(report))


def _refusal(what: str, report: Report) -> RefusedPlanError:
    """Return the error that the verifier objects to what the optimizer found, or to what was lowered."""
    text = "\n".join(report.told)
    return RefusedPlanError(f"the verifier refuses what {what}; please report this:\n{text}")


def _timed(draft: Plan, timeline: Timeline, second: Solution | None, then: str | None) -> Plan:
    """Return a draft with a schedule and what follows from it: starts, measures, and a value for each objective."""
    secondary = None
    if then is not None and second is not None:
        secondary = SecondaryObjective(then, timeline.measures.value(then), second.bound, second.evidence)
    return dataclasses.replace(
        draft,
        schedule=timeline.schedule,
        starts=tuple(tuple(row.tolist()) for row in timeline.starts),
        measures=timeline.measures,
        value=timeline.measures.value(draft.objective),
        then=secondary,
    )


def _given_lowering(schedule: Schedule, problem: Problem) -> ProvedLowering:
    """Judge a schedule with communication that the caller gives, for the default discipline."""
    case = Case(schedule, problem, discipline=DEFAULT_DISCIPLINE)
    claims = {} if case.measures is None else dataclasses.asdict(case.measures)
    report = verify_case(case.claiming(claims))
    _raise_for_caller(report)
    return ProvedLowering(timeline_of(report), report)


def _raise_for_caller(report: Report) -> None:
    """Raise a ScheduleError for what is wrong with a schedule that the caller gives."""
    needed = (*NEEDED, "SV3", "SV503")
    lines = [line for result in report.properties if result.code.startswith(needed) for line in result.told]
    if lines:
        raise ScheduleError("\n".join(lines))


def _with_communication(plan: Plan, report: Report, lowering: ProvedLowering) -> Plan:
    """Add to a plan its schedule with communication, for the default discipline, and the verdicts on both.

    Where messages break a limit (what is received leaves too little memory, say), the plan stays without them, and its
    reason says so.

    Parameters
    ----------
    report
        On the plan's schedule and claims.
    """
    timeline, of_lowered = lowering
    if any(not violation.code.startswith(_LIMITS) for violation in of_lowered.violations):
        raise _refusal("was lowered", of_lowered)
    if of_lowered.violations:
        text = "; ".join(violation.message for violation in of_lowered.violations)
        reason = "; ".join(filter(None, (plan.reason, f"no known lowering of it keeps the limits: {text}")))
        return dataclasses.replace(plan, reason=reason, verdicts=_verdicts(report))
    lowered = Lowered(timeline.schedule, DEFAULT_DISCIPLINE, 0, timeline.measures)
    return dataclasses.replace(plan, lowered=lowered, verdicts=_verdicts(joined(report, of_lowered)))


def _verdicts(report: Report) -> dict[str, Verdict]:
    return {result.code: result.verdict for result in report.properties}
