"""Puts every send and receive into a compute order, where they stand in a total order of all steps and messages.

In a total order nothing comes before what it needs, so that it gives a lowering that is free of deadlock under every
discipline (semantics, section 4). Total orders differ in where a receive stands among the steps of its rank.
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedverify.core.argument_types import check_types
from schedverify.core.errors import ScheduleError
from schedverify.core.messages import needed_messages, short
from schedverify.core.op import JOIN_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, kinds, op_stages, positions, rank_of_each
from schedverify.core.timeline import Timeline
from schedverify.simulator.engine import simulate
from schedverify.simulator.joint_steps import joint_steps_of

Numbers = NDArray[np.int64]


class TotalOrder(NamedTuple):
    """Where steps and messages stand in one order: arrays of shape (steps,), rank after rank.

    A step stands at ``(steps, levels, turns, 0)``, the messages that it makes at ``(messages, levels, turns, 1)``, and
    the lesser comes first. Steps that start as one stand at one place; others at equal places do not depend on each
    other.

    Attributes
    ----------
    steps
        The tick at which each step stands.
    messages
        The tick at which the messages of each step stand.
    levels
        How many steps stand before each on the longest way to it; puts steps of one tick in order.
    turns
        Of steps at one tick and level, the lesser goes first with its messages; all 0 where messages go last.
    """

    steps: Numbers
    messages: Numbers
    levels: Numbers
    turns: Numbers


def by_end(timeline: Timeline, *, in_turn: bool = True) -> TotalOrder:
    """Put each step, and its messages behind it, where it ends: a receive stands where its tensor is made.

    Parameters
    ----------
    in_turn
        Whether each of the steps that end at one tick is followed at once by its own messages; else all messages
        follow behind all of those steps.
    """
    ends = _joint_least(np.concatenate(timeline.ends), timeline)
    turns = _joint_least(_turns(timeline.schedule), timeline) if in_turn else np.zeros_like(ends)
    return TotalOrder(ends, ends, levels(timeline.schedule, timeline.problem), turns)


def by_start(timeline: Timeline) -> TotalOrder:
    """Put each step where it starts, and its messages where it ends: a receive holds up no step that could start."""
    starts, ends = np.concatenate(timeline.starts), np.concatenate(timeline.ends)
    return TotalOrder(starts, ends, levels(timeline.schedule, timeline.problem), np.zeros_like(starts))


def levels(schedule: Schedule, problem: Problem) -> Numbers:
    """Return how many steps stand before each on the longest way to it, shape (steps,): fewer than before its readers.

    It is when the steps start if every operation takes one tick and messages none.
    """
    costs = ("forward", "backward", "backward_input", "backward_weight")
    unit_costs: dict[str, Any] = dict.fromkeys(costs, (1,) * problem.total_stages)
    no_links: dict[str, Any] = {"latency": ((0,) * problem.ranks,) * problem.ranks, "bandwidth": None}
    no_more: dict[str, Any] = {"recompute": (False,) * problem.total_stages, "overlapped": ()}
    unit = dataclasses.replace(problem, **unit_costs, **no_links, **no_more)
    return np.concatenate(simulate(schedule, unit).starts)


def _turns(schedule: Schedule) -> Numbers:
    """Return the turn of each step, shape (steps,): forwards from the last stage down, others from the first up.

    Among steps that end at one tick a rank that receives so goes before the one that sends to it.
    """
    words = np.concatenate(schedule.rows)
    heads = words[words >> JOIN_SHIFT == 0]
    stage = op_stages(heads)
    return np.asarray(np.where(kinds(heads) == int(Kind.F), -stage, stage))


def _joint_least(values: Numbers, timeline: Timeline) -> Numbers:
    """Give the steps of several ranks that start as one the least of their values, both of shape (steps,)."""
    joint, placed = joint_steps_of(timeline.schedule, timeline.problem)
    if all(len(step.steps) == 1 for step in joint):
        return values
    members: list[int] = []  # each part of a joint step as the number of its step, rank after rank
    joint_of: list[int] = []
    offset = 0
    for row, joint_at, starts in zip(timeline.schedule.rows, placed, timeline.starts, strict=True):
        members += (offset + positions(row)[list(joint_at)]).tolist()
        joint_of += joint_at.values()
        offset += len(starts)
    least = np.full(len(joint), np.iinfo(np.int64).max)
    np.minimum.at(least, joint_of, values[members])
    values[members] = least[joint_of]
    return values


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
    _refuse_communication(schedule)
    if order is None:
        order = by_end(simulate(schedule, problem))
    messages = needed_messages(schedule, problem)
    words = np.concatenate(schedule.rows)
    step = np.cumsum(words >> JOIN_SHIFT == 0) - 1
    maker, count = step[messages.maker], len(messages.maker)
    transfers = short(np.concatenate((messages.sends, messages.receives)), problem)
    # All operations and then all transfers, as columns of one table that is sorted by rank and place:
    #            operations    sends              receives
    #   rank     its own       of the sender      of the receiver
    #   place    of its step   of the maker's     of the maker's
    #   behind   0             1                  1
    receiving = problem.owner_rank_array[op_stages(transfers)]
    ranks = np.concatenate((rank_of_each(schedule), receiving))
    place = np.concatenate((order.steps[step], order.messages[maker], order.messages[maker]))
    level, turn = (np.concatenate((by[step], by[maker], by[maker])) for by in (order.levels, order.turns))
    behind = np.repeat([0, 1], [len(words), 2 * count])
    number = np.concatenate((np.arange(len(words)), np.arange(count), np.arange(count)))
    sequence = np.lexsort((number, behind, turn, level, place, ranks))
    bounds = np.cumsum(np.bincount(ranks, minlength=schedule.ranks))[:-1]
    return Schedule(np.split(np.concatenate((words, transfers))[sequence], bounds))


def _refuse_communication(schedule: Schedule) -> None:
    """Raise a ScheduleError that names the first operation of a schedule that is no compute."""
    for rank, row in enumerate(schedule.rows):
        if (kinds(row) > int(Kind.W)).any():
            steps = enumerate(schedule.steps(rank))
            position, step = next((i, s) for i, s in steps if any(op.kind > Kind.W for op in s.ops))
            raise ScheduleError(f"{step} stands at rank {rank}, position {position}: the schedule is lowered already")
