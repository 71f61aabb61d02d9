"""Lowers a schedule for a machine: adds the communication, in an order that is proved not to hang."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, NamedTuple

from schedverify.core.argument_types import check_types
from schedverify.core.discipline import DEFAULT_DISCIPLINE, Discipline, check_eager_bytes
from schedverify.core.errors import ScheduleError, SchedverifyError
from schedverify.core.problem import Problem
from schedverify.core.result import Lowered, Report, Verdict, Violation
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Timeline
from schedverify.lowering import add_communication, add_late_waits, add_waits, keep_sharding, timed_lowerings
from schedverify.simulator.engine import simulate
from schedverify.verifier.verification import verify, verify_lowered

_NEEDED: Final = ("SV1", "SV2", "SV3")


class ProvedLowering(NamedTuple):
    """A schedule with communication: its timeline under a discipline, and what the verifier says of it."""

    timeline: Timeline
    report: Report


class RefusedLoweringError(SchedverifyError):
    """A lowering that the verifier does not pass: a fault of ours, never to be handed out."""


def lower(
    schedule: Schedule,
    problem: Problem,
    *,
    discipline: str | None = None,
    eager_bytes: int = 0,
    again: bool = False,
    waits: bool = False,
) -> Schedule:
    r"""Return the schedule with every send and receive that it needs.

    By default one order of the compute steps is walked, and each send and its receive stand right behind the step that
    makes the tensor: free of deadlock under every discipline, whatever the durations. With a discipline, the safe
    orders that are known are timed under it, and the fastest is returned that the verifier has proved free of deadlock
    under it, and within the problem's limits. Where the problem limits the sends that are begun at once, each is waited
    for, as late as that limit and the capacity allow; see :func:`schedverify.lowering.add_late_waits`.

    What :func:`schedverify.verify` calls violated, under the discipline or by default, is not returned: received bytes
    count against the memory's capacity, say. ``schedverify.lowering.add_communication`` looks at no limit.

    Parameters
    ----------
    schedule
        A compute order that can run.
    discipline
        ``tagged``, ``buffered``, ``edge``, ``pair``, ``rank`` or ``block``; see semantics, section 4.
    eager_bytes
        Size up to which messages are eager under the discipline.
    again
        Whether communication that stands in the schedule, right or wrong, is taken out first: every send and receive,
        every wait for a send, every group. Kept are the order of the compute steps, overlapped pairs, and each UNSHARD,
        RESHARD, REDUCE_GRAD and WAIT_REDUCE_GRAD between the same compute steps.
    waits
        Whether each send is waited for, also where the problem has no such limit.

    Raises
    ------
    ScheduleError
        If the schedule is incomplete, has an operation that is not the problem's, or communication while ``again`` is
        not asked for, or cannot run; or with every violation of what was lowered, where no known lowering keeps the
        limits.
    UnknownNameError, InputError
        If there is no such discipline, or no such size.

    Examples
    --------
    >>> problem = Problem.chain(ranks=2, microbatches=1)
    >>> print(lower(Schedule.parse("0F0 0B0\n1F0 1B0"), problem))
    0F0 0SEND_F0 0RECV_B0 0B0
    1RECV_F0 1F0 1B0 1SEND_B0
    >>> hangs = Schedule.parse("0F0 0RECV_B0 0SEND_F0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0")
    >>> lower(hangs, problem, again=True) == lower(Schedule.parse("0F0 0B0\n1F0 1B0"), problem)
    True
    """
    check_types("lower", schedule=(schedule, Schedule), problem=(problem, Problem))
    check_eager_bytes(eager_bytes)
    if again:
        fresh = lower(schedule.compute_only(), problem, discipline=discipline, eager_bytes=eager_bytes, waits=waits)
        lowered, judged_under = keep_sharding(fresh, schedule), discipline or DEFAULT_DISCIPLINE
        if lowered != fresh:
            raise_for_limits(verify(lowered, problem, discipline=judged_under, eager_bytes=eager_bytes))
        return lowered
    if discipline is None:
        lowered = add_communication(schedule, problem)
        lowered = _waiting(lowered, problem) if waits or problem.outstanding_sends is not None else lowered
        raise_for_limits(verify(lowered, problem, eager_bytes=eager_bytes))
        return lowered
    known = Discipline.of(discipline)
    timeline, report = proved_lowering(simulate(schedule, problem), known, eager_bytes, waits=waits)
    raise_for_limits(report)
    return timeline.schedule


def _waiting(lowered: Schedule, problem: Problem) -> Schedule:
    """Return the default lowering with waits; it is free of deadlock wherever they stand behind their sends.

    Where none keep the limits, each stands right behind its send, so that the verifier can tell what is broken.
    """
    try:
        return add_late_waits(lowered, problem)
    except ScheduleError:
        return add_waits(lowered)


def raise_for_limits(report: Report) -> None:
    """Raise a ScheduleError with every violation of what was lowered."""
    if report.violations:
        raise ScheduleError("\n".join(["the schedule with communication is violated:", *report.told]))


def proved_lowering(
    timeline: Timeline,
    discipline: Discipline,
    eager_bytes: int = 0,
    over: Callable[[], bool] = lambda: False,
    *,
    waits: bool = False,
) -> ProvedLowering:
    """Return the best lowering of a compute order that is proved under a discipline; see :func:`lower`.

    Where all of them break a limit of the problem, it is the best of those whose structure, dependencies and
    communication (SV1, SV2, SV3 but what boundaries declare) are proved.

    Parameters
    ----------
    timeline
        The timeline of the compute order.
    over
        Whether no further lowering should be tried: the best of those that are known then is returned.
    waits
        Whether each send is waited for; so it is where the problem limits the sends that are begun at once.

    Raises
    ------
    RefusedLoweringError
        If there is none.
    """
    proved: list[ProvedLowering] = []
    refused: list[Violation] = []
    for lowered in timed_lowerings(timeline, discipline, eager_bytes, over, waits=waits):
        claimed = Lowered(lowered.schedule, discipline, eager_bytes, lowered.measures)
        report = verify_lowered(claimed, timeline.problem, None)
        needed = [result for result in report.properties if result.code.startswith(_NEEDED) and result.code != "SV306"]
        if not all(result.verdict in (Verdict.HOLDS, Verdict.NOT_APPLICABLE) for result in needed):
            refused += [violation for result in needed for violation in result.violations][:1]
        elif report.violations:
            proved.append(ProvedLowering(lowered, report))
        else:
            return ProvedLowering(lowered, report)
    if proved:
        return proved[0]
    text = "\n".join(map(str, refused))
    raise RefusedLoweringError(f"the verifier refuses what was lowered; please report this:\n{text}")
