"""Lowers a schedule for a machine: adds the communication, in an order that is proved not to hang."""

from __future__ import annotations

from schedverify.lowering import add_communication
from schedverify.problem import Problem
from schedverify.schedule import Schedule


def lower(schedule: Schedule, problem: Problem) -> Schedule:
    r"""Return the schedule with every send and receive that it needs, free of deadlock under every discipline.

    Parameters
    ----------
    schedule
        A compute order that can run.

    Raises
    ------
    ScheduleError
        If the schedule is incomplete, has an operation that is not the problem's or communication, or cannot run.

    Examples
    --------
    >>> problem = Problem.chain(ranks=2, microbatches=1)
    >>> print(lower(Schedule.parse("0F0 0B0\n1F0 1B0"), problem))
    0F0 0SEND_F0 0RECV_B0 0B0
    1RECV_F0 1F0 1B0 1SEND_B0
    """
    return add_communication(schedule, problem)
