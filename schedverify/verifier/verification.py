"""Selects properties, judges a schedule by each of them to the end, and reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from schedverify.core.argument_types import check_types
from schedverify.core.discipline import DEFAULT_DISCIPLINE, Communication, Discipline, check_eager_bytes
from schedverify.core.errors import Fault, InputError, UnknownNameError
from schedverify.core.problem import Problem
from schedverify.core.result import Lowered, Plan, PropertyResult, Report, Scope, Verdict, Violation
from schedverify.core.schedule import Schedule, check_ranks
from schedverify.verifier.rules import REGISTRY, Case, NotApplicable, Property, Undecided
from schedverify.verifier.runtimes import ON_REQUEST, profile_of


def verify(  # noqa: PLR0913 - each is a keyword of its own
    schedule: Schedule | Plan,
    problem: Problem | None = None,
    *,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
    discipline: str = DEFAULT_DISCIPLINE,
    eager_bytes: int = 0,
    excerpt: bool = False,
    claims: Mapping[str, Any] | None = None,
    profile: str | None = None,
) -> Report:
    """Judge a schedule by every selected property, each to its end.

    Parameters
    ----------
    schedule
        What is judged. A plan brings its own problem and its claims: timeline, measures, value, bound, certificate;
        where it holds its schedule with communication too, that is judged as well, under the plan's discipline.
    problem
        What it is for. Without it (and without a plan), it is read off the schedule; the report says so.
    select, ignore
        Codes or beginnings of codes (``SV1``, ``SV401``); none are ignored by default, and all selected but those of
        the profiles (``SV7``).
    discipline
        What blocks what below a schedule with communication: ``tagged``, ``buffered``, ``edge``, ``pair``, ``rank`` or
        ``block``.
    eager_bytes
        Messages of at most so many bytes are sent without waiting for their receive; 0 for none.
    excerpt
        Whether compute operations that the order lacks count as done before it begins.
    claims
        What is claimed of the schedule; see :class:`schedverify.verifier.rules.Case`.
    profile
        A runtime that the schedule is for, ``torch`` or ``torchtitan``: what that needs is selected as well.

    Returns
    -------
    Report
        With a verdict for every selected property, every violation, and the measures that follow.

    Raises
    ------
    InputError
        If the schedule has another number of rows than the problem has ranks, a plan is of another problem, or
        ``eager_bytes`` is negative.
    UnknownNameError
        If a code in ``select`` or ``ignore`` begins no property's code, or there is no such discipline or profile.
    """
    check_types("verify", schedule=(schedule, Schedule, Plan), problem=(problem, Problem, type(None)))
    chosen, named = _chosen(select, ignore, profile), Discipline.of(discipline)
    check_eager_bytes(eager_bytes)
    lowered = schedule.lowered if isinstance(schedule, Plan) else None
    if isinstance(schedule, Plan):
        claims = claims if claims is not None else claims_of(schedule)
        schedule, problem = _unpacked(schedule, problem)
    inferred = ""
    if problem is None:
        from schedverify.verifier.infer_problem import REMARK, deduce_problem

        problem, inferred = deduce_problem(schedule), REMARK
    check_ranks(schedule, problem.ranks)
    report = _report(Case(schedule, problem, excerpt, claims or {}, named, eager_bytes), chosen, inferred)
    if lowered is None:
        return report
    return _joined(report, _report_on_lowered(lowered, problem, [prop.code for prop in chosen]))


def verify_case(case: Case) -> Report:
    """Judge a case by every property that :func:`verify` selects by itself, as one whose problem was given.

    A case works out its timeline once, so that what is claimed can be read off the timeline that the verifier has made.
    """
    check_ranks(case.schedule, case.problem.ranks)
    return _report(case, _chosen(None, (), None))


def _report(case: Case, chosen: list[Property], inferred: str = "") -> Report:
    """Judge a case by the chosen properties; ``inferred`` is the remark on a problem that was read off the schedule."""
    results = [_judge(prop, case) for prop in chosen]
    if inferred:
        results = [dataclasses.replace(result, scope=Scope.AS_READ) for result in results]
    remarks = ((inferred,) if inferred else ()) + tuple(_remarks(case.problem, results))
    return Report(tuple(results), case.measures, remarks, _communication(case, results), case.timeline_source)


def claims_of(plan: Plan) -> dict[str, Any]:
    """Return what a plan claims of its schedule, in the form that :func:`verify` takes."""
    measures = dataclasses.asdict(plan.measures) if plan.measures else {}
    own = {"timeline": plan.starts or None, "value": plan.value, "bound": plan.bound, "certificate": plan.certificate}
    return measures | own | {"objective": plan.objective, "then": plan.then and dataclasses.asdict(plan.then)}


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


def _report_on_lowered(lowered: Lowered, problem: Problem, codes: list[str]) -> Report:
    """Judge the lowered part of a plan and the measures that it claims; it must have messages where any is needed."""
    report = verify_lowered(lowered, problem, codes)
    if lowered.schedule.lowered or not _has_messages(problem):
        return report
    silent = (Violation("SV301", "no send and no receive stands in it"),)
    wrong: dict[str, Any] = {"verdict": Verdict.VIOLATED, "violations": silent, "reason": ""}
    results = (dataclasses.replace(each, **wrong) if each.code == "SV301" else each for each in report.properties)
    return dataclasses.replace(report, properties=tuple(results))


def _has_messages(problem: Problem) -> bool:
    """Whether a micro-batch passes from a rank to another: through a copy of the model that any goes through."""
    owner_rank = problem.owner_rank
    edges = [(source, target) for source, targets in enumerate(problem.successors) for target in targets]
    return any(problem.microbatch_counts[a] and owner_rank[a] != owner_rank[b] for a, b in edges)


def _joined(report: Report, lowered: Report) -> Report:
    """Add to the report on a plan's schedule what is wrong with its lowered part, and what only that can show."""
    results = []
    for own, other in zip(report.properties, lowered.properties, strict=True):
        shows = own.verdict is Verdict.NOT_APPLICABLE or (own.verdict is Verdict.HOLDS and other.violations)
        named = tuple(dataclasses.replace(v, message=f"lowered: {v.message}") for v in other.violations)
        results.append(dataclasses.replace(other, violations=named) if shows else own)
    return dataclasses.replace(report, properties=tuple(results), communication=lowered.communication)


def _unpacked(plan: Plan, problem: Problem | None) -> tuple[Schedule, Problem]:
    if plan.schedule is None:
        raise InputError("the plan has no schedule")
    if problem is not None and _nameless(problem) != _nameless(plan.problem):
        raise InputError(Fault("problem", "the plan is of another problem", "leave the problem away to use its own"))
    return plan.schedule, plan.problem


def _nameless(problem: Problem) -> Problem:
    """Return a problem without what has no effect on a schedule: its name, and the names of its layers."""
    return dataclasses.replace(problem, name="", partition=())


def _chosen(select: Iterable[str] | None, ignore: Iterable[str], profile: str | None) -> list[Property]:
    usual = sorted({code[:3] for code in REGISTRY if not code.startswith(ON_REQUEST)})
    wanted, unwanted = tuple(usual if select is None else select), tuple(ignore)
    wanted += profile_of(profile).codes if profile is not None else ()
    for prefix in (*wanted, *unwanted):
        if not any(code.startswith(prefix) for code in REGISTRY) or not prefix:
            raise UnknownNameError.among("property", prefix, REGISTRY)
    codes = sorted(code for code in REGISTRY if code.startswith(wanted) and not code.startswith(unwanted))
    return [REGISTRY[code] for code in codes]


def _judge(prop: Property, case: Case) -> PropertyResult:
    try:
        violations = tuple(prop.check(case))
    except NotApplicable as reason:
        return PropertyResult(prop.code, prop.name, Verdict.NOT_APPLICABLE, prop.scope, (), str(reason), reason.remedy)
    except Undecided as reason:
        return PropertyResult(prop.code, prop.name, Verdict.UNDECIDED, prop.scope, reason=str(reason))
    verdict = Verdict.VIOLATED if violations else Verdict.HOLDS
    return PropertyResult(prop.code, prop.name, verdict, prop.scope, violations)


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
