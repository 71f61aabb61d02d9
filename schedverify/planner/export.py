"""What leaves for PyTorch's runtime: only what the verifier has passed, with what that runtime needs."""

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
_MOST_TOLD: Final = 10
_HINT: Final = "PyTorch's runtime would fail, hang or train on wrong gradients; --profile none writes it as it stands"


def for_torch(schedule: Schedule, problem: Problem, *, profile: str = "torch", comms: bool = True) -> Schedule:
    """Return a schedule as PyTorch's runtime may load it, once the verifier has passed it for that runtime.

    Parameters
    ----------
    profile
        ``torch`` or ``torchtitan``.
    comms
        Whether its communication leaves too, where it stands in the schedule (PyTorch's ``compute_comms``): then each
        stage gets its ``REDUCE_GRAD``, if none has one. Without, PyTorch adds all of it when it loads the schedule.

    Raises
    ------
    ScheduleError
        If the verifier objects; with every violation.
    UnknownNameError
        If there is no such profile.
    """
    check_types("for_torch", schedule=(schedule, Schedule), problem=(problem, Problem))
    leaving = _reduced(schedule) if comms else schedule.compute_only()
    report = verify(leaving, problem, select=_NEEDED, profile=profile)
    if report.violations:
        told = [str(violation) for violation in report.violations]
        more = [f"and {len(told) - _MOST_TOLD} more"] if len(told) > _MOST_TOLD else []
        raise ScheduleError("\n".join([*told[:_MOST_TOLD], *more, _HINT]))
    return leaving


def _reduced(schedule: Schedule) -> Schedule:
    reduces = any(bool((kinds(row) == int(Kind.REDUCE_GRAD)).any()) for row in schedule.rows)
    return add_reduction(schedule) if schedule.lowered and not reduces else schedule
