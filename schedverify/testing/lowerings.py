"""Lowered schedules of a problem, and what a lowering must do with a compute order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import strategies as st

from schedverify.core.discipline import DEFAULT_DISCIPLINE
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.lowering import add_communication, add_reduction, add_sharding, defer_receives, group_opposite
from schedverify.testing.checking import SchedulerFault, failure, made_by, report_text
from schedverify.testing.orders import schedules
from schedverify.verifier.verification import verify

__tracebackhide__ = True
"""pytest shows the line of the test, not what stands here."""

Lowering = Callable[[Schedule, Problem], Schedule]

_LOWERINGS: tuple[Lowering, ...] = (
    add_communication,
    lambda schedule, problem: defer_receives(add_communication(schedule, problem), problem),
    lambda schedule, problem: group_opposite(add_communication(schedule, problem), problem),
    lambda schedule, problem: add_sharding(add_reduction(add_communication(schedule, problem)), problem),
)


def lowered(problem: Problem) -> st.SearchStrategy[Schedule]:
    """Draw a schedule of a problem with its communication in it, free of deadlock up to the discipline ``pair``.

    The order is one of :func:`schedules`, its messages where :func:`schedverify.lower` puts them, or with its receives
    deferred, with opposite transfers as groups, or with parameters gathered and gradients reduced; examples shrink to
    the first. What is received counts in a lowered schedule, so it may exceed a capacity that its compute order keeps.
    """
    return st.builds(lambda how, schedule: how(schedule, problem), st.sampled_from(_LOWERINGS), schedules(problem))


def check_lowering(
    lowering: Lowering, schedule: Schedule, problem: Problem, *, discipline: str = DEFAULT_DISCIPLINE
) -> Schedule:
    r"""Check what a lowering makes of a compute order: the same steps, with right communication, and the same again.

    Parameters
    ----------
    lowering
        Takes a compute order and its problem, and returns the order with sends and receives in it.
    schedule
        A compute order that can run, such as :func:`schedules` draws.
    discipline
        Under which it must be free of deadlock (SV304); see semantics, section 4.

    Returns
    -------
    Schedule
        What the lowering made, for further checks.

    Raises
    ------
    SchedulerFault
        An AssertionError that tells what is wrong, with the problem as a file, both orders and a picture. An exception
        of the lowering is its cause.
    UnknownNameError
        If there is no such discipline.

    Examples
    --------
    >>> problem = Problem.chain(ranks=2, microbatches=1)
    >>> print(check_lowering(add_communication, Schedule.parse("0F0 0B0\n1F0 1B0"), problem, discipline="block"))
    0F0 0SEND_F0 0RECV_B0 0B0
    1RECV_F0 1F0 1B0 1SEND_B0
    """

    def fault(text: str, *found: Any) -> SchedulerFault:
        return failure(f"{text}\n\nThe order that was lowered:\n{schedule}", problem, *found)

    def make() -> Schedule:
        made = made_by("lowering", lowering, schedule, problem, fault=fault)
        if made.ranks != schedule.ranks:
            raise fault(f"it has {made.ranks} rows for {schedule.ranks} ranks", made)
        return made

    made = make()
    orders = zip(schedule.compute_only().strings(), made.compute_only().strings(), strict=True)
    for rank, (given, found) in enumerate(orders):
        if given != found:
            raise fault(f"rank {rank} computes {' '.join(found) or '-'}, where its order has other steps", made)
    report = verify(made, problem, select=("SV1", "SV2", "SV3"), discipline=discipline)
    if not report.ok:
        raise fault(report_text(report), made, report)
    again = make()
    if again != made:
        raise fault(f"the lowering is not deterministic; called again, it returns\n{again}", made)
    return made
