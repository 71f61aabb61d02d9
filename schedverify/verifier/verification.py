"""Selects properties, judges a schedule by each of them to the end, and reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from schedverify.core.argument_types import check_types
from schedverify.core.discipline import DEFAULT_DISCIPLINE, Communication, Discipline, check_eager_bytes
from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.core.result import MOST_TOLD, Lowered, Plan, PropertyResult, Report, Scope, Status, Verdict, Violation
from schedverify.core.schedule import Schedule, check_ranks
from schedverify.verifier.claims import check_claims, claims_of
from schedverify.verifier.cures import with_cures
from schedverify.verifier.places import picture_of_places
from schedverify.verifier.plan_report import claimed_codes, joined, with_messages_missing, with_own_claims
from schedverify.verifier.rules import REGISTRY, Case, More, NotApplicable, Property, Undecided, unknown_property
from schedverify.verifier.runtimes import ON_REQUEST, profile_of


def verify(  # noqa: PLR0913 - each is a keyword of its own
    schedule: Schedule | Plan,
    problem: Problem | None = None,
    *,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
    discipline: str | None = None,
    eager_bytes: int = 0,
    excerpt: bool = False,
    claims: Mapping[str, Any] | None = None,
    profile: str | None = None,
) -> Report:
    """Judge a schedule by every selected property, each to its end.

    Parameters
    ----------
    schedule
        What is judged. A plan brings its own problem and its claims, all of which are judged; where it holds its
        schedule with communication too, that is judged as well, under the plan's own discipline and eager bytes.
    problem
        What it is for. Without it (and without a plan), it is read off the schedule; the report says so.
    select, ignore
        Codes or beginnings of codes (``SV1``, ``SV401``); none are ignored by default, and all selected but those of
        the profiles (``SV7``).
    discipline
        What blocks what below a schedule with communication: ``tagged``, ``buffered``, ``edge``, ``pair``, ``rank`` or
        ``block``. By default ``pair``, with a profile the strictest that its backends have.
    eager_bytes
        Messages of at most so many bytes are sent without waiting for their receive; 0 for none.
    excerpt
        Whether compute operations that the order lacks count as done before it begins.
    claims
        What is claimed of the schedule; see :class:`schedverify.verifier.rules.Case`.
    profile
        A runtime that the schedule is for, ``torch`` (until 2.14), ``torch-2.15`` (and later) or ``torchtitan``: what
        that needs is selected as well.

    Returns
    -------
    Report
        With a verdict for every selected property, the first fifty violations of each and how many more there are, and
        the measures that follow.

    Raises
    ------
    InputError
        If the schedule has another number of rows than the problem has ranks, a plan is of another problem, a claim
        is none or has another type than such a claim has, or ``eager_bytes`` is negative.
    UnknownNameError
        If a code in ``select`` or ``ignore`` begins no property's code, or there is no such discipline or profile.
    """
    check_types("verify", schedule=(schedule, Schedule, Plan), problem=(problem, Problem, type(None)))
    check_types("verify", claims=(claims, Mapping, type(None)))
    chosen, named = _chosen(select, ignore, profile), _discipline(discipline, profile)
    check_eager_bytes(eager_bytes)
    if claims is not None:
        check_claims(claims)
    if isinstance(schedule, Plan):
        _check_own_problem(schedule, problem)
        return _report_on_plan(schedule, claims, chosen, excerpt)
    inferred = ""
    if problem is None:
        from schedverify.verifier.infer_problem import REMARK, deduce_problem

        problem, inferred = deduce_problem(schedule), REMARK
    check_ranks(schedule, problem.ranks)
    return _report(Case(schedule, problem, excerpt, claims or {}, named, eager_bytes), chosen, inferred)


def verify_case(case: Case) -> Report:
    """Judge a case by every property that :func:`verify` selects by itself, as one whose problem was given.

    A case works out its timeline once, so that what is claimed can be read off the timeline that the verifier has made.
    """
    check_ranks(case.schedule, case.problem.ranks)
    return _report(case, _chosen(None, (), None))


def _report(case: Case, chosen: list[Property], inferred: str = "") -> Report:
    """Judge a case by the chosen properties; ``inferred`` is the remark on a problem that was read off the schedule."""
    results = with_cures([_judge(prop, case) for prop in chosen], case)
    if inferred:
        results = [dataclasses.replace(result, scope=Scope.AS_READ) for result in results]
    remarks = ((inferred,) if inferred else ()) + tuple(_remarks(case.problem, results))
    communication, units = _communication(case, results), case.problem.units
    return Report(tuple(results), case.measures, remarks, communication, case.timeline_source, units)


def verify_lowered(lowered: Lowered, problem: Problem, select: Iterable[str] | None) -> Report:
    """Judge a schedule with communication under its own discipline, and the measures that are claimed of it."""
    return verify(
        lowered.schedule,
        problem,
        select=select,
        discipline=lowered.discipline,
        eager_bytes=lowered.eager_bytes,
        claims=dataclasses.asdict(lowered.measures),
    )


def _report_on_plan(plan: Plan, claims: Mapping[str, Any] | None, chosen: list[Property], excerpt: bool) -> Report:
    """Judge a plan by the chosen properties; the verdicts that it claims are compared with those of its own claims."""
    own, wanted = claims_of(plan), [prop.code for prop in chosen]
    given = own if claims is None else claims
    if "SV501" not in wanted:
        return _report_on_both(plan, given, wanted, excerpt=excerpt)
    judged = sorted({*wanted, *claimed_codes(plan)})
    follows = _report_on_both(plan, own, judged, excerpt=False)
    same = claims is None and not excerpt and judged == wanted
    asked = follows if same else _report_on_both(plan, given, wanted, excerpt=excerpt)
    return with_own_claims(asked, plan, {result.code: result.verdict for result in follows.properties})


def _report_on_both(plan: Plan, claims: Mapping[str, Any], codes: list[str], *, excerpt: bool) -> Report:
    """Judge the schedule of a plan, and the one with communication under its own discipline, where there is one."""
    properties = [REGISTRY[code] for code in codes]
    if plan.schedule is None:
        return _report_without_schedule(plan, claims, properties)
    check_ranks(plan.schedule, plan.problem.ranks)
    report = _report(Case(plan.schedule, plan.problem, excerpt, claims), properties)
    if plan.lowered is None:
        return report
    lowered = verify_lowered(plan.lowered, plan.problem, codes)
    return joined(report, with_messages_missing(lowered, plan.lowered, plan.problem))


def _report_without_schedule(plan: Plan, claims: Mapping[str, Any], properties: list[Property]) -> Report:
    """Judge a plan that claims that there is no schedule: what it claims can be judged, and nothing else."""
    if plan.status is not Status.INFEASIBLE:
        raise InputError("the plan has no schedule")
    none = Case(Schedule.of([[]] * plan.problem.ranks), plan.problem, claims=claims)
    reason = "the plan is that there is no schedule"
    results = [
        _judge(prop, none)
        if prop.code in ("SV501", "SV502")
        else PropertyResult(prop.code, prop.name, Verdict.NOT_APPLICABLE, prop.scope, reason=reason)
        for prop in properties
    ]
    return Report(tuple(results))


def _check_own_problem(plan: Plan, problem: Problem | None) -> None:
    if problem is not None and _nameless(problem) != _nameless(plan.problem):
        raise InputError(Fault("problem", "the plan is of another problem", "leave the problem away to use its own"))


def _nameless(problem: Problem) -> Problem:
    """Return a problem without what has no effect on a schedule: its name, those of its layers, the unit of bytes."""
    return dataclasses.replace(problem, name="", partition=(), unit="")


def check_codes(prefixes: Iterable[str]) -> None:
    """Raise an UnknownNameError unless each text begins the code of a property."""
    for prefix in prefixes:
        if not any(code.startswith(prefix) for code in REGISTRY) or not prefix:
            raise unknown_property(prefix)


def _chosen(select: Iterable[str] | None, ignore: Iterable[str], profile: str | None) -> list[Property]:
    usual = sorted({code[:3] for code in REGISTRY if not code.startswith(ON_REQUEST)})
    wanted, unwanted = tuple(usual if select is None else select), tuple(ignore)
    wanted += profile_of(profile).codes if profile is not None else ()
    check_codes((*wanted, *unwanted))
    codes = sorted(code for code in REGISTRY if code.startswith(wanted) and not code.startswith(unwanted))
    return [REGISTRY[code] for code in codes]


def _discipline(name: str | None, profile: str | None) -> Discipline:
    """Return the discipline of a name; without one that of the profile, without that the default."""
    if name is None and profile is not None:
        return profile_of(profile).strictest
    return Discipline.of(DEFAULT_DISCIPLINE if name is None else name)


def _judge(prop: Property, case: Case) -> PropertyResult:
    """Judge a case by a property; what was found to be violated before a check gives up is violated all the same."""
    violations, more, verdict, reason, remedy = list[Violation](), 0, Verdict.HOLDS, "", ""
    try:
        for found in prop.check(case):
            if isinstance(found, More):
                more += found.number
            elif len(violations) < MOST_TOLD:
                violations.append(found)
            else:
                more += 1
    except NotApplicable as given:
        verdict, reason, remedy = Verdict.NOT_APPLICABLE, str(given), given.remedy
    except Undecided as given:
        verdict, reason = Verdict.UNDECIDED, str(given)
    if violations:
        verdict, reason, remedy = Verdict.VIOLATED, "", ""
        violations[0] = _pictured(violations[0], case.schedule)
    return PropertyResult(prop.code, prop.name, verdict, prop.scope, tuple(violations), reason, remedy, more)


def _pictured(violation: Violation, schedule: Schedule) -> Violation:
    """Return a violation with a picture of where it is, if it has a place and no picture yet."""
    if violation.picture or violation.rank is None or violation.position is None:
        return violation
    picture = picture_of_places(schedule, [(violation.rank, violation.position, "")])
    return dataclasses.replace(violation, picture=picture)


def _communication(case: Case, results: list[PropertyResult]) -> Communication | None:
    """Return under which discipline the schedule was judged and which it survives, where SV304 was judged."""
    judged = any(result.code == "SV304" and result.verdict is not Verdict.NOT_APPLICABLE for result in results)
    return Communication(case.discipline, case.eager_bytes, case.strictest) if judged else None


def _remarks(problem: Problem, results: list[PropertyResult]) -> Iterator[str]:
    """Yield what must be known to read these verdicts."""
    verdicts = {result.code: result.verdict for result in results}
    if verdicts.get("SV304") is Verdict.HOLDS and verdicts.get("SV301") is not Verdict.HOLDS:
        yield "SV304 takes a send or receive that meets none as met; run, it can hang, and SV301 is about that"
    limited = problem.in_flight is not None or problem.in_flight_stage is not None
    if problem.form == "split" and limited and problem.capacity is None:
        yield "with a split backward an in-flight limit does not bound memory while W waits; give a capacity"
