"""Completes a schedule by what PyTorch's runtime needs, and returns it once the verifier has passed it for that."""

from __future__ import annotations

from typing import Final

from schedverify.core.argument_types import check_types
from schedverify.core.errors import ScheduleError
from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, kinds, waits_for_sends
from schedverify.lowering import add_late_waits, add_reduction, add_reduction_waits
from schedverify.verifier.runtimes import profile_of
from schedverify.verifier.verification import verify

_NEEDED: Final = ("SV1", "SV2", "SV3")
_MOST_LISTED: Final = 10
_HINT: Final = "PyTorch's runtime would fail, hang or train on wrong gradients; --profile none writes it as it stands"


WITH_WAITS: Final = "torch-2.15"
"""The profile of PyTorch's runtime since it waits for sends and reductions where the order says so."""


def for_torch(schedule: Schedule, problem: Problem, *, profile: str = "torch", comms: bool = True) -> Schedule:
    """Return a schedule as PyTorch's runtime may load it, once the verifier has passed it for that runtime.

    Parameters
    ----------
    profile
        ``torch`` (until 2.14), ``torch-2.15`` (and later) or ``torchtitan``.
    comms
        Whether the communication that stands in the schedule is kept (PyTorch's ``compute_comms``): then each stage
        gets its ``REDUCE_GRAD``, if none has one; for ``torch-2.15`` each of these its ``WAIT_REDUCE_GRAD`` and each
        send its wait, if none has one, as late as the problem's limits allow
        (:func:`schedverify.lowering.add_late_waits`). Without, PyTorch adds all of it when it loads the schedule.

    Raises
    ------
    ScheduleError
        If the verifier objects, with the first ten violations; or if no waits can stand within the problem's limits.
    UnknownNameError
        If there is no such profile.
    """
    check_types("for_torch", schedule=(schedule, Schedule), problem=(problem, Problem))
    exported = _completed(schedule, problem, profile) if comms else schedule.compute_only()
    report = verify(exported, problem, select=_NEEDED, profile=profile)
    if report.violations:
        lines = [str(violation) for violation in report.violations[:_MOST_LISTED]]
        more = [f"and {report.violation_count - len(lines)} more"] if report.violation_count > len(lines) else []
        raise ScheduleError("\n".join([*lines, *more, _HINT]))
    return exported


def profile_for(schedule: Schedule) -> str:
    """Return the profile of PyTorch's runtime that can have a schedule: since 2.15 where waits stand in it."""
    return WITH_WAITS if waits_for_sends(schedule) or _has(schedule, Kind.WAIT_REDUCE_GRAD) else "torch"


def _completed(schedule: Schedule, problem: Problem, profile: str) -> Schedule:
    """Return a schedule that has communication with what else the runtime needs, where none of that stands in it."""
    if not schedule.lowered:
        return schedule
    if not _has(schedule, Kind.REDUCE_GRAD):
        schedule = add_reduction(schedule, problem)
    if profile == WITH_WAITS:
        if not _has(schedule, Kind.WAIT_REDUCE_GRAD):
            schedule = add_reduction_waits(schedule)
        if not waits_for_sends(schedule):
            schedule = add_late_waits(schedule, problem, profile_of(profile).strictest)
    return schedule


def _has(schedule: Schedule, kind: Kind) -> bool:
    return any(bool((kinds(row) == int(kind)).any()) for row in schedule.rows)
