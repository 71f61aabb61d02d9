"""Puts a wait for each send, as late as the limits of sends and bytes allow and never where it can hang.

Source: PyTorch's ``torch.distributed.pipelining`` from 2.15 on, whose actions WAIT_SEND_F and WAIT_SEND_B these are.
"""

from __future__ import annotations

import numpy as np

from schedverify.core.argument_types import check_types
from schedverify.core.discipline import DEFAULT_DISCIPLINE
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words, is_send
from schedverify.lowering.send_waits import refuse_waits, waits_for


def add_late_waits(schedule: Schedule, problem: Problem, discipline: str = DEFAULT_DISCIPLINE) -> Schedule:  # noqa: ARG001
    """Return a lowered schedule with a WAIT_SEND for each send, at the end of its rank: there it holds up nothing."""
    check_types("add_late_waits", schedule=(schedule, Schedule), problem=(problem, Problem))
    refuse_waits(schedule)
    return Schedule(map(_ended, schedule.rows))


def _ended(row: Words) -> Words:
    return np.concatenate((row, waits_for(row[is_send(row)])))
