"""Total orders of the compute steps and the messages of a schedule in which nothing comes before what it needs.

Any such order gives a lowering that is free of deadlock under every discipline (semantics, section 4). They differ in
where a receive stands among the steps of its rank.
"""

from __future__ import annotations

import dataclasses
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedverify.core.op import INDEX_MASK, JOIN_SHIFT, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, kinds, positions
from schedverify.core.timeline import Timeline
from schedverify.simulator.engine import simulate
from schedverify.simulator.joint_steps import joint_steps_of

Ints = NDArray[np.int64]


class TotalOrder(NamedTuple):
    """Where steps and messages stand in one order: arrays with an entry for each step, rank after rank.

    A step stands at ``(steps, levels, turns, 0)``, the messages that it makes at ``(messages, levels, turns, 1)``, and
    the lesser comes first. Steps that start as one stand at one place; others at equal places have nothing to do with
    each other.
    """

    steps: Ints
    messages: Ints
    levels: Ints
    turns: Ints


def by_end(timeline: Timeline, *, in_turn: bool = True) -> TotalOrder:
    """Put each step, and its messages behind it, where it ends: a receive stands where its tensor is made.

    Parameters
    ----------
    in_turn
        Whether of steps that end at one tick each is followed at once by its own messages; else all messages follow
        behind all of those steps.
    """
    ends = _as_one(np.concatenate(timeline.ends), timeline)
    turns = _as_one(_turns(timeline.schedule), timeline) if in_turn else np.zeros_like(ends)
    return TotalOrder(ends, ends, levels(timeline.schedule, timeline.problem), turns)


def by_start(timeline: Timeline) -> TotalOrder:
    """Put each step where it starts, and its messages where it ends: a receive holds up no step that could start."""
    starts, ends = np.concatenate(timeline.starts), np.concatenate(timeline.ends)
    return TotalOrder(starts, ends, levels(timeline.schedule, timeline.problem), np.zeros_like(starts))


def levels(schedule: Schedule, problem: Problem) -> Ints:
    """Return for each step how many steps stand before it on the longest way to it: less than for any that needs it.

    It is the timeline in which every operation takes one tick and messages none.
    """
    one, none = (1,) * problem.total_stages, (0,) * problem.ranks
    unit = dataclasses.replace(
        problem,
        forward=one,
        backward=one,
        backward_input=one,
        backward_weight=one,
        recompute=(False,) * problem.total_stages,
        overlapped=(),
        latency=(none,) * problem.ranks,
        bandwidth=None,
    )
    return np.concatenate(simulate(schedule, unit).starts)


def _turns(schedule: Schedule) -> Ints:
    """Let receivers go before senders among equals: forwards from the last stage down, the others from the first up."""
    words = np.concatenate(schedule.rows)
    first = words[words >> JOIN_SHIFT == 0]
    stage = first >> STAGE_SHIFT & INDEX_MASK
    return np.asarray(np.where(kinds(first) == int(Kind.F), -stage, stage))


def _as_one(values: Ints, timeline: Timeline) -> Ints:
    """Give the steps of several ranks that start as one the least of their values."""
    meetings, placed = joint_steps_of(timeline.schedule, timeline.problem)
    if all(len(meeting.steps) == 1 for meeting in meetings):
        return values
    members: list[list[int]] = [[] for _ in meetings]
    offset = 0
    for row, meeting_at, steps in zip(timeline.schedule.rows, placed, timeline.starts, strict=True):
        position = positions(row)
        for index, meeting in meeting_at.items():
            members[meeting].append(offset + int(position[index]))
        offset += len(steps)
    for steps_of_one in members:
        values[steps_of_one] = values[steps_of_one].min()
    return values
