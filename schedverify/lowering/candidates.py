"""The safe orders that are known for a compute order: where its messages can stand so that nothing hangs."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from schedverify.core.errors import ScheduleError
from schedverify.core.op import JOIN_SHIFT, Kind
from schedverify.core.schedule import Schedule, kinds
from schedverify.core.timeline import Timeline
from schedverify.lowering.deferral import defer_receives
from schedverify.lowering.grouping import group_opposite
from schedverify.lowering.insertion import add_communication, by_end, by_start
from schedverify.lowering.late_waits import add_late_waits
from schedverify.lowering.send_waits import add_waits
from schedverify.simulator.engine import simulate

MOST_ROUNDS: Final = 4
"""How often the orders are made again from the times of the best lowering, while that helps."""


def timed_lowerings(
    timeline: Timeline,
    discipline: str,
    eager_bytes: int = 0,
    over: Callable[[], bool] = lambda: False,
    *,
    waits: bool = False,
) -> list[Timeline]:
    """Return timelines of safe lowerings of a compute order, given by its timeline, under a discipline, the best first.

    Those that fit the capacity come before those that do not, then what ends earlier; the default lowering comes
    before its equals. No lowering ends before the order itself, so that where one is as early, no other is tried; nor
    is one once it is ``over()``.

    Parameters
    ----------
    waits
        Whether each send is waited for; so it is where the problem limits the sends that are begun at once.

    Raises
    ------
    ScheduleError
        If there is communication in the order already.
    """
    waits = waits or timeline.problem.outstanding_sends is not None
    found: list[Timeline] = []
    schedule, problem, least = timeline.schedule, timeline.problem, timeline.makespan
    for _ in range(MOST_ROUNDS):
        before = found[:1]
        placed = safe_lowerings(schedule, timeline, discipline)
        for lowered in _waiting(placed, timeline, discipline, eager_bytes) if waits else placed:
            found.append(simulate(lowered, problem, discipline=discipline, eager_bytes=eager_bytes))
            if _worth(found[-1]) == (False, least) or over():
                break
        found.sort(key=_worth)
        if found[:1] == before or _worth(found[0]) == (False, least) or over():
            break
        timeline = _compute_times(found[0], schedule)
    return found


def safe_lowerings(schedule: Schedule, timeline: Timeline, discipline: str) -> Iterator[Schedule]:
    """Yield lowerings of a compute order by its times, each free of deadlock under a discipline.

    Steps and messages stand where the steps end, one by one or all messages of a tick together; or steps where they
    start, and messages where they are made. Of each of these the opposite transfers are grouped, the receives
    deferred, or both. No wait stands in them.
    """
    problem = timeline.problem
    for ordered in (by_end, partial(by_end, in_turn=False), by_start):
        lowered = add_communication(schedule, problem, ordered(timeline))
        yield lowered
        yield group_opposite(lowered, problem)
        deferred = defer_receives(lowered, problem, discipline)
        yield deferred
        yield group_opposite(deferred, problem)


def _waiting(placed: Iterator[Schedule], timeline: Timeline, discipline: str, eager_bytes: int) -> Iterator[Schedule]:
    """Yield those of some lowerings, the default first, that waits can keep within the limits, with such waits.

    Where there are none, the default is yielded with a wait right behind each send, so that what it breaks can be told.
    """
    default, none = None, True
    for lowered in placed:
        default = default or lowered
        try:
            waiting = add_late_waits(lowered, timeline.problem, discipline, eager_bytes)
        except ScheduleError:
            continue
        none = False
        yield waiting
    if none and default is not None:
        yield add_waits(default)


def _worth(timeline: Timeline) -> tuple[bool, int]:
    """Return whether the capacity is exceeded, and the makespan in ticks: the lesser is the better."""
    capacity = timeline.problem.capacity
    over = capacity is not None and any(a > b for a, b in zip(timeline.measures.peak_memory, capacity, strict=True))
    return over, timeline.makespan


def _compute_times(lowered: Timeline, schedule: Schedule) -> Timeline:
    """Return the timeline of the compute order with the starts and ends that its steps have in a lowered schedule."""
    computes = [kinds(row[row >> JOIN_SHIFT == 0]) <= int(Kind.W) for row in lowered.schedule.rows]
    starts, ends = (
        tuple(row[compute] for row, compute in zip(ticks, computes, strict=True))
        for ticks in (lowered.starts, lowered.ends)
    )
    return dataclasses.replace(lowered, schedule=schedule, starts=starts, ends=ends, discipline=None, eager_bytes=0)
