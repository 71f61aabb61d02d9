"""Explains: a property by its code, or a plan by what binds it and what would make it better."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import Any, Final, overload

from schedverify.core.argument_types import check_types
from schedverify.core.ending import OverError
from schedverify.core.explanation import CriticalWay, Explanation, PathLink
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Status
from schedverify.optimizer import Effort
from schedverify.planner.explanation.communication import gains_in_communication
from schedverify.planner.explanation.critical import critical_cycle_of, critical_path_of
from schedverify.planner.explanation.gains import gains_of
from schedverify.planner.explanation.limits import explain_conflict, used_up_limits
from schedverify.verifier.rule_pages import property_page
from schedverify.verifier.verification import verify

__all__ = ["explain"]

_PRICED_ROWS: Final = {
    "rank": "the time of rank",
    "bytes": "the bytes of rank",
    "in_flight": "what is in flight on rank",
    "in_flight_stage": "what is in flight on stage",
}
"""The rows in a certificate of the rule counts that stand for something of which there could be more, as text."""


@overload
def explain(subject: str) -> str: ...
@overload
def explain(
    subject: Plan,
    *,
    time_limit: float = 60,
    workers: int | None = None,
    solver_memory: int | None = None,
    stop: threading.Event | None = None,
) -> Explanation: ...
def explain(
    subject: str | Plan,
    *,
    time_limit: float = 60,
    workers: int | None = None,
    solver_memory: int | None = None,
    stop: threading.Event | None = None,
) -> str | Explanation:
    """Return the page of a property (by its code), or why a plan is as it is.

    Of an infeasible plan: which limits clash, and the least value of each that would do, the others being as they are.
    Of one with a schedule: what its bound rests on, its critical path (of a span, its critical cycle of ranks), the
    limits that it uses up. Of an optimal one: what one unit more of each of these would gain, one tick less for each
    operation that its bound rests on or that stands on the critical path, and one on every link. This is found by
    searching again; what is not proved in the time is told as open. Of limits on communication, what looser ones would
    gain of the makespan with communication, in the plan's own order.

    Parameters
    ----------
    subject
        A code such as ``SV201``, or a plan of :func:`schedverify.optimize`.
    time_limit, workers, solver_memory, stop
        Of all the searches together, as in :func:`schedverify.optimize`; the seed is the plan's.

    Returns
    -------
    str or Explanation
        Markdown of a property; of a plan an :class:`~schedverify.Explanation`, which ``str()`` tells.

    Raises
    ------
    UnknownNameError
        If there is no property with that code.
    InputError
        If a number is out of its range.
    ScheduleError
        If the verifier objects to the plan or to what it claims; the message tells every violation.
    """
    check_types("explain", subject=(subject, Plan, str))
    if isinstance(subject, str):
        return property_page(subject)
    effort = Effort(time_limit, subject.seed, workers, solver_memory, stop or threading.Event())
    if subject.status is Status.INFEASIBLE:
        return explain_conflict(subject, effort)
    if subject.schedule is None:
        return Explanation(subject.status, subject.objective, remarks=(subject.reason,))
    report = verify(subject)
    report.raise_for_violations()
    timeline = None if effort.stopped else report.timeline
    looser, unlowered = ([], []) if timeline is None else gains_in_communication(subject, timeline)
    path, cycle, untold = _critical(subject, effort)
    deciding = [*path, *(link for way in cycle for link in way.path)]
    proved = subject.status is Status.OPTIMAL
    unproved = (), ("what more would gain is told of optimal plans",)
    gains, remarks = gains_of(subject, deciding, effort) if proved else unproved
    return Explanation(
        subject.status,
        subject.objective,
        bound=basis_of_bound(subject),
        critical_path=path,
        critical_cycle=cycle,
        binding=tuple(used_up_texts(subject)),
        gains=(*gains, *looser),
        remarks=(*remarks, *untold, *unlowered),
        units=subject.problem.units,
    )


def _critical(plan: Plan, effort: Effort) -> tuple[tuple[PathLink, ...], tuple[CriticalWay, ...], tuple[str, ...]]:
    """Return what decides how long a plan takes, or, where that would take too long, a remark that it is untold."""

    def check() -> None:
        if effort.too_late_for_first(known=False):
            raise OverError

    try:
        return critical_path_of(plan, check), critical_cycle_of(plan, check), ()
    except OverError:
        return (), (), (f"what is critical was not looked for: {effort.why_over()}",)


def basis_of_bound(plan: Plan) -> str:
    """Return what the bound of a plan rests on: the rule that proves it, or the search."""
    certificate = plan.certificate
    if plan.bound is None:
        return "nothing: none is known"
    if certificate is None:
        return "the search"
    rule, stated = _rule_text(plan.problem, certificate), certificate.get("bound")
    if isinstance(stated, int) and stated >= plan.bound:
        return rule
    return f"the search; what can be checked without one is {stated}: {rule}"


def _rule_text(problem: Problem, certificate: Mapping[str, Any]) -> str:
    """Return what the rule of a certificate counts, as a part of a sentence."""
    rule, rank, stage = (certificate.get(name) for name in ("rule", "rank", "stage"))
    if rule == "load" and isinstance(rank, int):
        stages = problem.stages_of[rank]
        named = f"stage{'s' * (len(stages) > 1)} {' and '.join(map(str, stages))}"
        return f"the load of rank {rank} ({named}), with what must come before and after it"
    if rule == "pair":
        first, last = certificate["stages"]
        way = "what must come before it" if first == last else f"the way there from stage {first} and back"
        return f"the load of stage {last}, with {way}"
    if rule == "memory":
        return f"stage {stage}: the forwards that must run before its first gradient op are held together"
    if rule == "idle":
        return f"the load of rank {rank}, and the time that its limits leave it idle at the begin or the end"
    if rule == "sequence":
        return f"what one sequence holds on rank {rank} when it turns back"
    return _prices_text(certificate["rows"]) if rule == "counts" else f"the rule {rule}"


def _prices_text(rows: Iterable[Mapping[str, Any]]) -> str:
    """Return which ranks' time and which limits have a price (a dual value) in a certificate of the rule counts."""
    priced: dict[str, list[str]] = {}
    for row in rows:
        if what := _PRICED_ROWS.get(row["row"]):
            priced.setdefault(what, []).append(str(row["at"][0]))
    return "prices on " + ", and on ".join(f"{what} {', '.join(places)}" for what, places in priced.items())


def used_up_texts(plan: Plan) -> Iterator[str]:
    """Yield a sentence for each limit that a plan uses up, and for the ranks that hold the peak where it counts."""
    if plan.schedule is None or plan.measures is None:
        return
    if plan.objective == "peak-memory":
        peak = max(plan.measures.peak_memory)
        ranks = ", ".join(str(rank) for rank, most in enumerate(plan.measures.peak_memory) if most == peak)
        yield f"the most bytes, {plan.problem.units.size(peak)}, are held on rank {ranks}"
    yield from (limit.text for limit in used_up_limits(plan.problem, plan.schedule, plan.measures))
