"""Puts a wait right behind each send, where a rank has no more than the sends of one step begun at once.

Source: PyTorch's ``torch.distributed.pipelining`` from 2.15 on, whose actions WAIT_SEND_F and WAIT_SEND_B these are.
"""

from __future__ import annotations

import numpy as np

from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InputError
from schedverify.core.op import KIND_MASK, KIND_SHIFT, Kind
from schedverify.core.schedule import (
    OPERATION_MASK,
    Schedule,
    Words,
    is_send,
    is_send_wait,
    kinds,
    positions,
    step_bounds,
)  # fmt: skip


def add_waits(schedule: Schedule) -> Schedule:
    """Return a lowered schedule with a WAIT_SEND right behind each send, or behind the group in which it stands.

    The rank goes on when the send is complete. That is less than ``block`` asks for, so that what is free of deadlock
    under ``block`` is free of it with these waits under every discipline; what needs another discipline can hang.

    Raises
    ------
    InputError
        If a WAIT_SEND stands in the schedule already.
    """
    check_types("add_waits", schedule=(schedule, Schedule))
    refuse_waits(schedule)
    return Schedule(map(_waiting, schedule.rows))


def refuse_waits(schedule: Schedule) -> None:
    """Raise an InputError that names the first WAIT_SEND of a schedule."""
    for rank, row in enumerate(schedule.rows):
        found = is_send_wait(row)
        if found.any():
            place = f"rank {rank}, position {int(positions(row)[int(found.argmax())])}"
            raise InputError(Fault(place, "a WAIT_SEND stands there already", "take the waits out first"))


def waits_for(sends: Words) -> Words:
    """Return the waits for some sends."""
    kind = np.where(kinds(sends) == int(Kind.SEND_B), int(Kind.WAIT_SEND_B), int(Kind.WAIT_SEND_F))
    return sends & OPERATION_MASK & ~(KIND_MASK << KIND_SHIFT) | kind << KIND_SHIFT


def _waiting(row: Words) -> Words:
    """Return a row with the waits put in, in the order of the sends; a group stays whole."""
    sends = np.flatnonzero(is_send(row))
    begins = step_bounds(row)
    return np.insert(row, begins[np.searchsorted(begins, sends, side="right")], waits_for(row[sends]))
