"""What PyTorch's runtime is given of a plan: the order as it is proved, with what this version of it asks for."""

from __future__ import annotations

from schedverify.core.discipline import Discipline
from schedverify.core.errors import ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.planner.export import WITH_WAITS, for_torch
from schedverify.torch_bridge.torch_internals import knows_waits
from schedverify.verifier.verification import verify


def order_to_load(schedule: Schedule, problem: Problem, discipline: Discipline) -> Schedule:
    """Return an order with communication as the runtime of this torch takes it, once it is proved again.

    What is added, ``REDUCE_GRAD`` and since torch 2.15 a wait for each send and each reduction, is what
    :func:`schedverify.planner.export.for_torch` adds. An order that has waits of its own keeps them; before 2.15 it is
    refused, since its limit on sends could not be kept there.

    Parameters
    ----------
    discipline
        What the sends and receives of the runtime amount to with the backend below it, which may be stricter than what
        the profile of the runtime says of its backends.

    Raises
    ------
    ScheduleError
        If the verifier objects; with the first violation of all.
    """
    completed = for_torch(schedule, problem, profile=WITH_WAITS if knows_waits() else "torch")
    report = verify(completed, problem, select=["SV304"], discipline=discipline)
    if report.violations:
        raise ScheduleError(str(report.violations[0]))
    return completed
