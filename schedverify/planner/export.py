"""Completes a schedule by what PyTorch's runtime needs, and returns it once the verifier has passed it for that."""

from __future__ import annotations

from typing import Final

from schedverify.core.argument_types import check_types
from schedverify.core.errors import ScheduleError
from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, kinds
from schedverify.lowering import add_reduction
from schedverify.verifier.verification import verify

_NEEDED: Final = ("SV1", "SV2", "SV3")
_MOST_LISTED: Final = 10
_HINT: Final = "PyTorch's runtime would fail, hang or train on wrong gradients; --profile none writes it as it stands"


def for_torch(schedule: Schedule, problem: Problem, *, profile: str = "torch", comms: bool = True) -> Schedule:
    """Return a schedule as PyTorch's runtime may load it, once the verifier has passed it for that runtime.

    Parameters
    ----------
    profile
        ``torch`` or ``torchtitan``.
    comms
        Whether the communication that stands in the schedule is kept (PyTorch's ``compute_comms``): then each stage
        gets its ``REDUCE_GRAD``, if none has one. Without, PyTorch adds all of it when it loads the schedule.

    Raises
    ------
    ScheduleError
        If the verifier objects; with the first ten violations.
    UnknownNameError
        If there is no such profile.
    """
    check_types("for_torch", schedule=(schedule, Schedule), problem=(problem, Problem))
    exported = _with_reduction(schedule, problem) if comms else schedule.compute_only()
    report = verify(exported, problem, select=_NEEDED, profile=profile)
    if report.violations:
        lines = [str(violation) for violation in report.violations[:_MOST_LISTED]]
        more = [f"and {report.violation_count - len(lines)} more"] if report.violation_count > len(lines) else []
        raise ScheduleError("\n".join([*lines, *more, _HINT]))
    return exported


def _with_reduction(schedule: Schedule, problem: Problem) -> Schedule:
    """Return a schedule that has communication with a ``REDUCE_GRAD`` for each stage, unless it has any already."""
    reduces = any(bool((kinds(row) == int(Kind.REDUCE_GRAD)).any()) for row in schedule.rows)
    return add_reduction(schedule, problem) if schedule.lowered and not reduces else schedule
