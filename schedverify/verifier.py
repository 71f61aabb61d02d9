"""Selects properties, judges a schedule by each of them to the end, and reports."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from schedverify.deduction import REMARK, deduce_problem
from schedverify.errors import Fault, InputError, UnknownNameError, UnsupportedError
from schedverify.op import Kind
from schedverify.problem import Problem
from schedverify.properties import REGISTRY, Case, NotApplicable, Property, Undecided
from schedverify.result import Plan, PropertyResult, Report, Scope, Verdict
from schedverify.schedule import Schedule, kinds


def verify(
    schedule: Schedule | Plan,
    problem: Problem | None = None,
    *,
    select: Iterable[str] | None = None,
    ignore: Iterable[str] = (),
    excerpt: bool = False,
    claims: Mapping[str, Any] | None = None,
) -> Report:
    """Judge a schedule by every selected property, each to its end.

    Parameters
    ----------
    schedule
        What is judged. A plan brings its own problem and its claims: timeline, measures, value, bound, certificate.
    problem
        What it is for. Without it (and without a plan), it is read off the schedule; the report says so.
    select, ignore
        Codes or beginnings of codes (``SV1``, ``SV401``); all are selected and none ignored by default.
    excerpt
        Whether operations that the order lacks count as done before it begins.
    claims
        What is claimed of the schedule; see :class:`schedverify.properties.Case`.

    Returns
    -------
    Report
        With a verdict for every selected property, every violation, and the measures that follow.

    Raises
    ------
    InputError
        If the schedule has another number of rows than the problem has ranks, or a plan is of another problem.
    UnknownNameError
        If a code in ``select`` or ``ignore`` begins no property's code.
    UnsupportedError
        If communication stands in the schedule: this version judges compute orders.
    """
    chosen = _chosen(select, ignore)
    if isinstance(schedule, Plan):
        claims = claims if claims is not None else claims_of(schedule)
        schedule, problem = _unpacked(schedule, problem)
    _refuse_communication(schedule)
    deduced = problem is None
    problem = deduce_problem(schedule) if problem is None else problem
    if schedule.ranks != problem.ranks:
        raise InputError(
            Fault("", f"the schedule has {schedule.ranks} rows, the problem {problem.ranks} ranks", "one row for each")
        )
    case = Case(schedule, problem, excerpt, claims or {})
    results = [_judge(prop, case) for prop in chosen]
    if deduced:
        results = [dataclasses.replace(result, scope=Scope.AS_READ) for result in results]
    return Report(tuple(results), case.measures, _remarks(problem, deduced))


def claims_of(plan: Plan) -> dict[str, Any]:
    """Return what a plan claims of its schedule, in the form that :func:`verify` takes."""
    measures = dataclasses.asdict(plan.measures) if plan.measures else {}
    own = {"timeline": plan.starts or None, "value": plan.value, "bound": plan.bound, "certificate": plan.certificate}
    return measures | own | {"objective": plan.objective, "then": plan.then and dataclasses.asdict(plan.then)}


def _unpacked(plan: Plan, problem: Problem | None) -> tuple[Schedule, Problem]:
    if plan.schedule is None:
        raise InputError("the plan has no schedule")
    if problem is not None and dataclasses.replace(problem, name="") != dataclasses.replace(plan.problem, name=""):
        raise InputError(Fault("problem", "the plan is of another problem", "leave the problem away to use its own"))
    return plan.schedule, plan.problem


def _chosen(select: Iterable[str] | None, ignore: Iterable[str]) -> list[Property]:
    wanted, unwanted = tuple(select if select is not None else ("SV",)), tuple(ignore)
    for prefix in (*wanted, *unwanted):
        if not any(code.startswith(prefix) for code in REGISTRY) or not prefix:
            raise UnknownNameError.among("property", prefix, REGISTRY)
    return [
        p
        for code, p in sorted(REGISTRY.items())
        if code.startswith(wanted) and not (unwanted and code.startswith(unwanted))
    ]


def _refuse_communication(schedule: Schedule) -> None:
    for rank, row in enumerate(schedule.rows):
        if (kinds(row) > int(Kind.W)).any():
            steps = enumerate(schedule.steps(rank))
            position, step = next((i, s) for i, s in steps if any(op.kind > Kind.W for op in s.ops))
            place = f"rank {rank}, position {position}"
            hint = "this version judges compute orders; take the communication out"
            raise UnsupportedError(Fault(place, f"{step} is communication, which SV3 will judge", hint))


def _judge(prop: Property, case: Case) -> PropertyResult:
    try:
        violations = tuple(prop.check(case))
    except NotApplicable as reason:
        return PropertyResult(prop.code, prop.name, Verdict.NOT_APPLICABLE, prop.scope, reason=str(reason))
    except Undecided as reason:
        return PropertyResult(prop.code, prop.name, Verdict.UNDECIDED, prop.scope, reason=str(reason))
    verdict = Verdict.VIOLATED if violations else Verdict.HOLDS
    return PropertyResult(prop.code, prop.name, verdict, prop.scope, violations)


def _remarks(problem: Problem, deduced: bool) -> tuple[str, ...]:
    remarks = [REMARK] if deduced else []
    limited = problem.in_flight is not None or problem.in_flight_stage is not None
    if problem.form == "split" and limited and problem.capacity is None:
        remarks.append("with a split backward an in-flight limit does not bound memory while W waits; give a capacity")
    if problem.buffer is not None:
        remarks.append("links.buffer is not judged: a compute order sends nothing")
    return tuple(remarks)
