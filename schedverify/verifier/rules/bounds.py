"""SV502: what is claimed of the best that any schedule can have comes with evidence, and the evidence checks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TypeGuard

from schedverify.core.errors import shown
from schedverify.core.problem import Problem
from schedverify.core.result import Scope, Status, Violation
from schedverify.verifier.rules.base import Case, NotApplicable, Undecided, rule
from schedverify.verifier.rules.performance import Goal, goals_of


@rule("SV502", "claimed lower bound", Scope.THESE_COSTS)
def bound_has_evidence(case: Case) -> Iterator[Violation]:
    """A claimed lower bound comes with evidence, and the evidence checks.

    What it checks

    The certificate beside a claimed bound names a rule and its place (a rank, a pair of stages, a stage), or weights
    for the rows of the rule counts. The bound is derived again from the problem alone and must come out at least as
    high as the certificate says. A bound above what its certificate proves is the solver's word: undecided, and so is
    one by a rule that does not speak of the problem. A bound above the schedule's own value is refuted. The bound on a
    second objective is derived for the schedules that have no more of the first one than the plan. Where the status is
    optimal, each value is its bound; without a bound it is undecided. Where it is infeasible there is no schedule, and
    what is proved, of the objective or of anything else that is limited, is beyond the limit.

    Why it matters

    "Optimal" ends a search. If the bound is wrong, a faster schedule is never looked for, and nobody can tell.

    Example

    Two ranks, four micro-batches, forward 1, backward 2: rank 1 works 12 ticks after a head of 1 and before a tail of
    2, so `{ rule = "load", rank = 1, bound = 15 }` checks, and 16 does not.

    Formally

    bound <= rule(problem, place) for the named rule (see the page on bounds), and bound <= the objective's value; if
    optimal, bound = value; if infeasible, limits.makespan < bound, or the capacity or in-flight limit of the place is.
    """
    goals, status = list(goals_of(case)), case.claims.get("status")
    goals[:1] = _apart(goals[0]) if status == Status.INFEASIBLE else goals[:1]
    claimed = [goal for goal in goals if goal.bound is not None or goal.certificate is not None]
    if not claimed and status not in (Status.OPTIMAL, Status.INFEASIBLE):
        raise NotApplicable("no lower bound is claimed", "a plan claims one, and claims= takes one")
    checks = [_judge(case, goal) for goal in claimed]
    checks += [_best(case, goal) for goal in goals if status == Status.OPTIMAL]
    checks += [_none_at_all(case, goals[0])] if status == Status.INFEASIBLE else []
    open_ends = []
    for check in checks:
        try:
            yield from check
        except Undecided as reason:
            open_ends.append(str(reason))
    if open_ends:
        raise Undecided("; ".join(open_ends))


def _apart(goal: Goal) -> list[Goal]:
    """Return the claim that there is no schedule, of what its evidence bounds, apart from a bound on something else."""
    named = None if goal.certificate is None else goal.certificate.get("objective")
    if named is None or named == goal.objective:
        return [goal]
    rest = [] if goal.bound is None else [goal._replace(certificate=None)]
    return [goal._replace(objective=named, bound=None), *rest]


def _judge(case: Case, goal: Goal) -> Iterator[Violation]:
    """Yield what is wrong with one bound and its evidence; raise Undecided where it is the solver's word.

    Evidence without a bound claims the bound that it states.
    """
    from schedverify.verifier.certificates import EvidenceError, SilentEvidenceError

    certificate = goal.certificate
    stated = None if certificate is None else certificate.get("bound")
    bound = stated if goal.bound is None else goal.bound
    value = None if case.measures is None else case.measures.value(goal.objective)
    if value is not None and _is_whole(bound) and bound > value:
        claimed, has = case.problem.units.values(goal.objective, bound, value)
        text = f"the bound on the {goal.objective} is claimed to be {claimed}, but this schedule has {has}"
        yield Violation("SV502", text)
        return
    if certificate is None:
        raise Undecided(f"no evidence is given for the bound {bound}: it is the solver's word")
    try:
        proved = _proved(case, goal)
    except SilentEvidenceError as error:
        text = f"the evidence for the bound {shown(bound)} does not speak of this problem: {error}"
        raise Undecided(text) from None
    except EvidenceError as error:
        yield Violation("SV502", f"the evidence for the bound {shown(bound)} does not check: {error}")
        return
    if not _is_whole(stated) or proved < stated:
        yield Violation("SV502", f"the evidence states a bound of {shown(stated)}; what follows from it is {proved}")
    elif goal.bound is not None and stated < goal.bound:
        raise Undecided(f"the evidence proves {stated}; the rest of the bound {bound} is the solver's word")


def _proved(case: Case, goal: Goal) -> int:
    """Return the bound that follows from the evidence for an objective.

    Raises
    ------
    EvidenceError
        If none does.
    """
    from schedverify.verifier.certificates import proved_bound, proved_in_flight, proved_peak

    if goal.objective == "in-flight":
        return proved_in_flight(case.problem, goal.certificate)
    prove = proved_peak if goal.objective == "peak-memory" else proved_bound
    return prove(case.problem, goal.objective, goal.certificate, goal.ceiling)


def _best(case: Case, goal: Goal) -> Iterator[Violation]:
    """Yield that a value which is claimed to be the best is not its bound; whether that bound is proved is told apart.

    Where the value does not follow, or no bound is given, this is open.
    """
    value = None if case.measures is None else case.measures.value(goal.objective)
    value = goal.value if value is None else value
    if goal.bound is None or value is None:
        what = "bound" if goal.bound is None else "value"
        raise Undecided(f"optimal is claimed, and no {what} of the {goal.objective} is known")
    if goal.bound != value:
        best, bound = case.problem.units.values(goal.objective, value, goal.bound)
        yield Violation("SV502", f"optimal is claimed of {goal.objective} {best}, and its bound is {bound}")


def _none_at_all(case: Case, goal: Goal) -> Iterator[Violation]:
    """Judge the claim that there is no schedule: what is proved must be beyond what the problem's limits admit."""
    if len(case.schedule):
        yield Violation("SV502", "infeasible is claimed, and there is a schedule")
        return
    if goal.certificate is None:
        raise Undecided("no evidence is given that there is no schedule: it is the solver's word")
    from schedverify.verifier.certificates import EvidenceError

    try:
        proved, stated = _proved(case, goal), goal.certificate.get("bound")
    except EvidenceError as error:
        raise Undecided("nothing is proved of what the limits admit") from error
    proved = min(proved, stated) if _is_whole(stated) else 0
    name, limit = _limit(case.problem, goal)
    if limit is None or proved <= limit:
        raise Undecided(f"the evidence proves {proved}, which {name} does not forbid")


def _limit(problem: Problem, goal: Goal) -> tuple[str, int | None]:
    """Return the limit on what evidence bounds: on a time, or on what is held at the place that it names."""
    place = goal.certificate.get("rank", goal.certificate.get("stage"))
    if goal.objective == "in-flight" and "stage" in goal.certificate:
        return "limits.in_flight_stage", None if problem.in_flight_stage is None else problem.in_flight_stage[place]
    if goal.objective == "in-flight":
        return "limits.in_flight", None if problem.in_flight is None else problem.in_flight[place]
    if goal.objective == "peak-memory":
        rank = problem.owner_rank[place] if "stage" in goal.certificate else place
        return "memory.capacity", None if problem.capacity is None else problem.capacity[rank]
    return "limits.makespan", problem.makespan_limit


def _is_whole(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)
