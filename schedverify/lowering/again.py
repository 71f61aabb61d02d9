"""What stays where a schedule is lowered again: its computing, and when its parameters are gathered and reduced.

The communication of a schedule is taken out by :meth:`schedverify.core.schedule.Schedule.compute_only`, together with
what is of a whole stage (UNSHARD, RESHARD, REDUCE_GRAD, WAIT_REDUCE_GRAD). Behind a new lowering the latter is put back
where it stood among the compute steps.
"""

from __future__ import annotations

import numpy as np

from schedverify.core.argument_types import check_types
from schedverify.core.op import Kind
from schedverify.core.schedule import (
    OPERATION_MASK,
    IntArray,
    Schedule,
    Words,
    check_ranks,
    kinds,
    positions,
    step_bounds,
)


def without(schedule: Schedule, *unwanted: Kind) -> Schedule:
    """Return the schedule without the operations of some kinds that stand alone, such as UNSHARD and RESHARD."""
    check_types("without", schedule=(schedule, Schedule))
    kept = (np.isin(kinds(row), [int(kind) for kind in unwanted], invert=True) for row in schedule.rows)
    return Schedule(row[keep] for row, keep in zip(schedule.rows, kept, strict=True))


def keep_sharding(lowered: Schedule, source: Schedule) -> Schedule:
    """Return a lowering with every UNSHARD, RESHARD, REDUCE_GRAD and WAIT_REDUCE_GRAD of another schedule put in.

    Each stands between the same compute steps as there, and they keep their order: right behind the step in front of
    them, so that gathering and reducing begin as early as they did. From the first WAIT_REDUCE_GRAD between two steps
    on they stand right before the later one, so that no send waits for a reduction.

    Parameters
    ----------
    lowered
        A lowering without any of them.
    source
        A schedule with the same compute steps in the same orders.
    """
    check_types("keep_sharding", lowered=(lowered, Schedule), source=(source, Schedule))
    check_ranks(source, lowered.ranks)
    return Schedule(map(_with_sharding, lowered.rows, source.rows))


def _with_sharding(row: Words, source: Words) -> Words:
    """Return a row with what is of whole stages in another put in, each by how many compute steps stand before it.

    ::

        source   0F0 1UNSHARD 0SEND_F0 1F0 0B0 0REDUCE_GRAD 0WAIT_REDUCE_GRAD
        row      0F0 0SEND_F0 1F0 0B0 0SEND_B0                           becomes
                 0F0 1UNSHARD 0SEND_F0 1F0 0B0 0REDUCE_GRAD 0SEND_B0 0WAIT_REDUCE_GRAD
    """
    moved = np.flatnonzero(kinds(source) >= int(Kind.UNSHARD))
    before = np.cumsum(_begins_compute(source))[moved]  # compute steps in front of each
    bounds = step_bounds(row)
    starts = np.flatnonzero(_begins_compute(row))
    behind = np.append(0, bounds[np.searchsorted(bounds, starts, side="right")])
    ahead = np.append(starts, len(row))
    waits = before[kinds(source[moved]) == int(Kind.WAIT_REDUCE_GRAD)]
    first_wait = np.full(len(ahead), len(moved))
    np.minimum.at(first_wait, waits, np.flatnonzero(kinds(source[moved]) == int(Kind.WAIT_REDUCE_GRAD)))
    late = np.arange(len(moved)) >= first_wait[before]
    return np.insert(row, np.where(late, ahead[before], behind[before]), source[moved] & OPERATION_MASK)


def _begins_compute(row: Words) -> IntArray:
    """Return 1 for each operation of a row that is the first of its step that computes, else 0; shape (operations,)."""
    computes = kinds(row) <= int(Kind.W)
    step = positions(row)[computes]
    begins = np.zeros(len(row), dtype=np.int64)
    begins[computes] = np.append(True, np.diff(step) != 0)[: len(step)]
    return begins
