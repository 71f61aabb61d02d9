"""Explains: a property by its code, or a plan by what binds it and what would make it better."""

from __future__ import annotations

import threading
from typing import overload

from schedverify.core.argument_types import check_types
from schedverify.core.explanation import Explanation
from schedverify.core.result import Plan, Status
from schedverify.optimizer import Effort
from schedverify.planner.explanation.binding import bindings, bound_told, path_of
from schedverify.planner.explanation.conflicts import conflict
from schedverify.planner.explanation.relaxing import gains_of
from schedverify.verifier.rule_pages import property_page
from schedverify.verifier.verification import verify

__all__ = ["explain"]


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
    Of one with a schedule: what its bound rests on, its critical path, the limits that it uses up. Of an optimal one:
    what one unit more of each of these would gain, and one tick less on the busiest stage or on every link. This is
    found by searching again; what is not proved in the time is told as open.

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
        return conflict(subject, effort)
    if subject.schedule is None:
        return Explanation(subject.status, subject.objective, remarks=(subject.reason,))
    verify(subject).raise_for_violations()
    proved = subject.status is Status.OPTIMAL
    gains, remarks = gains_of(subject, effort) if proved else ((), ("what more would gain is told of optimal plans",))
    return Explanation(
        subject.status,
        subject.objective,
        bound=bound_told(subject),
        critical_path=path_of(subject),
        binding=tuple(bindings(subject)),
        gains=gains,
        remarks=remarks,
    )
