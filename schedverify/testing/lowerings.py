"""Lowered schedules of a problem, and what a lowering must do with a compute order."""

from __future__ import annotations

from collections.abc import Callable

from hypothesis import strategies as st

from schedverify.core.discipline import DEFAULT_DISCIPLINE
from schedverify.core.op import Step
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.lowering import add_reduction, add_sharding, defer_receives, group_opposite
from schedverify.planner.proved_lowering import lower
from schedverify.testing.checking import failure, report_text
from schedverify.testing.orders import schedules
from schedverify.verifier.verification import verify

__tracebackhide__ = True
"""pytest shows the line of the test, not what stands here."""

Lowering = Callable[[Schedule, Problem], Schedule]

_LOWERINGS: tuple[Lowering, ...] = (
    lower,
    lambda schedule, problem: defer_receives(lower(schedule, problem), problem),
    lambda schedule, problem: group_opposite(lower(schedule, problem), problem),
    lambda schedule, problem: add_sharding(add_reduction(lower(schedule, problem)), problem),
)


def lowered(problem: Problem) -> st.SearchStrategy[Schedule]:
    """Draw a schedule of a problem with its communication in it, free of deadlock up to the discipline ``pair``.

    The order is one of :func:`schedules`, the lowering that of :func:`schedverify.lower`, as it is, with its receives
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
    >>> print(check_lowering(lower, Schedule.parse("0F0 0B0\n1F0 1B0"), problem, discipline="block"))
    0F0 0SEND_F0 0RECV_B0 0B0
    1RECV_F0 1F0 1B0 1SEND_B0
    """
    made = _made(lowering, schedule, problem)
    for rank in range(schedule.ranks):
        given, found = _computing(schedule, rank), _computing(made, rank)
        if given != found:
            text = f"rank {rank} computes {' '.join(map(str, found)) or '-'}, where its order has other steps"
            raise failure(_with_order(text, schedule), problem, made)
    report = verify(made, problem, select=("SV1", "SV2", "SV3"), discipline=discipline)
    if not report.ok:
        raise failure(_with_order(report_text(report), schedule), problem, made, report)
    again = _made(lowering, schedule, problem)
    if again != made:
        text = f"the lowering is not deterministic; called again, it returns\n{again}"
        raise failure(_with_order(text, schedule), problem, made)
    return made


def _made(lowering: Lowering, schedule: Schedule, problem: Problem) -> Schedule:
    try:
        made = lowering(schedule, problem)
    except Exception as error:
        text = f"the lowering raised {type(error).__name__}: {error}"
        raise failure(_with_order(text, schedule), problem) from error
    if not isinstance(made, Schedule):
        raise failure(_with_order(f"the lowering returned {type(made).__name__}, not Schedule", schedule), problem)
    if made.ranks != schedule.ranks:
        raise failure(_with_order(f"it has {made.ranks} rows for {schedule.ranks} ranks", schedule), problem, made)
    return made


def _computing(schedule: Schedule, rank: int) -> list[Step]:
    return list(schedule.compute_only().steps(rank))


def _with_order(fault: str, schedule: Schedule) -> str:
    return f"{fault}\n\nThe order that was lowered:\n{schedule}"
