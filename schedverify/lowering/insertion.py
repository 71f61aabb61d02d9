"""Puts every send and receive into a compute order."""

from __future__ import annotations

import numpy as np

from schedverify.core.argument_types import check_types
from schedverify.core.errors import ScheduleError
from schedverify.core.messages import needed_messages, short
from schedverify.core.op import INDEX_MASK, JOIN_SHIFT, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, kinds
from schedverify.lowering.ordering import TotalOrder, by_end
from schedverify.simulator.engine import simulate


def add_communication(schedule: Schedule, problem: Problem, order: TotalOrder | None = None) -> Schedule:
    """Return the schedule with all the sends and receives that it needs, and nothing else added.

    One order of all compute steps is walked, and after each step, right behind it, its sends are appended, and each
    receive to the order of its rank. Any prefix of the walk can run, whatever blocks what: the result is free of
    deadlock under every discipline (semantics, section 4).

    Parameters
    ----------
    order
        The order that is walked; by default steps and messages stand where the steps end.

    Raises
    ------
    ScheduleError
        If the schedule is incomplete, has an operation that is not the problem's or communication, or cannot run.
    """
    check_types("add_communication", schedule=(schedule, Schedule), problem=(problem, Problem))
    refuse_communication(schedule)
    if order is None:
        order = by_end(simulate(schedule, problem))
    messages = needed_messages(schedule, problem)
    words = np.concatenate(schedule.rows)
    step = np.cumsum(words >> JOIN_SHIFT == 0) - 1
    made_by, count = step[messages.maker], len(messages.maker)
    rank = np.repeat(np.arange(schedule.ranks), [len(row) for row in schedule.rows])
    transfers = short(np.concatenate((messages.sends, messages.receives)), problem)
    owner_rank = np.array(problem.owner_rank, dtype=np.int64)
    ranks = np.concatenate((rank, owner_rank[transfers >> STAGE_SHIFT & INDEX_MASK]))
    place = np.concatenate((order.steps[step], order.messages[made_by], order.messages[made_by]))
    level, turn = (np.concatenate((by[step], by[made_by], by[made_by])) for by in (order.levels, order.turns))
    behind = np.repeat([0, 1], [len(words), 2 * count])
    number = np.concatenate((np.arange(len(words)), np.arange(count), np.arange(count)))
    sequence = np.lexsort((number, behind, turn, level, place, ranks))
    bounds = np.cumsum(np.bincount(ranks, minlength=schedule.ranks))[:-1]
    return Schedule(np.split(np.concatenate((words, transfers))[sequence], bounds))


def refuse_communication(schedule: Schedule) -> None:
    """Raise a ScheduleError that names the first operation of a schedule that is no compute."""
    for rank, row in enumerate(schedule.rows):
        if (kinds(row) > int(Kind.W)).any():
            steps = enumerate(schedule.steps(rank))
            position, step = next((i, s) for i, s in steps if any(op.kind > Kind.W for op in s.ops))
            raise ScheduleError(f"{step} stands at rank {rank}, position {position}: the schedule is lowered already")
