"""Joins a send and a receive of the same two ranks, which stand one after the other, to a group that starts as one."""

from __future__ import annotations

import numpy as np

from schedverify.core.argument_types import check_types
from schedverify.core.discipline import Discipline
from schedverify.core.op import JOIN_SHIFT, Join
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.simulator.p2p_program import LoweredProgram, match


def group_opposite(schedule: Schedule, problem: Problem) -> Schedule:
    """Return a lowered schedule in which neighbouring transfers of two ranks in opposite directions are groups.

    A send and a receive are joined where they stand one after the other, with the same peer, in the orders of both
    ranks: then nothing comes between them anywhere, and they may as well be one event. So what is free of deadlock
    under a discipline stays so. Longer runs of alternating directions become one group.

    Raises
    ------
    ScheduleError
        If operations or messages are missing or too many.
    """
    check_types("group_opposite", schedule=(schedule, Schedule), problem=(problem, Problem))
    program = LoweredProgram(schedule, problem)
    transfers = match(program, Discipline.PAIR)
    size = len(program.words)
    # partner[i] is the operation at the other end of transfer i, -1 for others and behind the end. Operations first
    # and first + 1 of a rank are joined where both stand alone in their steps and so do their partners, in the same
    # order:     rank a   .. send x | receive y ..        first     first + 1
    #            rank b   .. receive x | send y ..        partner   partner + 1
    partner = np.full(size + 1, -1, dtype=np.int64)
    partner[transfers.send], partner[transfers.receive] = transfers.receive, transfers.send
    sends = np.zeros(size + 1, dtype=bool)
    sends[transfers.send] = True
    begins = np.append(program.words >> JOIN_SHIFT == 0, True)
    alone = begins[:-1] & begins[1:] & (partner[:-1] >= 0)
    first = np.flatnonzero(alone[:-1] & alone[1:])
    second = first + 1
    joined = (sends[first] != sends[second]) & (program.rank[first] == program.rank[second])
    joined &= (partner[second] == partner[first] + 1) & alone[partner[first]] & alone[partner[second]]
    joined &= program.rank[partner[first]] == program.rank[partner[second]]
    words = program.words.copy()
    words[second[joined]] |= int(Join.GROUP) << JOIN_SHIFT
    return Schedule(np.split(words, np.cumsum([len(row) for row in schedule.rows])[:-1]))
