"""Reads a problem off a schedule that comes without one: ranks, placement and micro-batches; costs are units."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np

from schedverify.core.op import MICROBATCH_MASK, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import OPERATION_MASK, Schedule, Words, kinds, op_stages

REMARK: Final = (
    "no problem is given: ranks, placement and micro-batches are read off the schedule, "
    "and unit costs stand in (F, I and W 1 tick each, B 2)"
)


def deduce_problem(schedule: Schedule) -> Problem:
    """Return the problem that a schedule seems to be for.

    A stage is placed on the ranks that hold all of its compute operations, else on the rank that holds most of them;
    where none stands, most of its communication; one that does not stand in the schedule at all, on rank ``stage mod
    ranks``. The first of several ranks is the one that sends and receives most.
    """
    rows = [row & OPERATION_MASK for row in schedule.rows]
    words = np.concatenate(rows)
    numbered = words[kinds(words) < int(Kind.UNSHARD)]
    letters = {kind.name for kind in Kind if (kinds(words) == int(kind)).any()}
    stages = int(op_stages(words).max(initial=0)) + 1
    split, training = letters & {"I", "W"}, letters & {"B", "SEND_B", "RECV_B", "REDUCE_GRAD"}
    data: dict[str, Any] = {
        "ranks": schedule.ranks,
        "microbatches": int((numbered & MICROBATCH_MASK).max(initial=0)) + 1,
        "stages": stages,
        "placement": _placement(rows, stages),
        "form": "split" if split else "fused" if training else "inference",
    }
    return Problem.of(data | {"costs": _unit_costs(data["form"])})


def _unit_costs(form: str) -> dict[str, int]:
    parts = {"backward_input": 1, "backward_weight": 1} if form == "split" else {}
    return {"forward": 1} | ({"backward": 2} if form == "fused" else parts)


def _placement(rows: list[Words], stages: int) -> list[list[int]]:
    computing, communicating = (_by_rank(rows, side) for side in (True, False))
    whole = _by_stage(np.concatenate(rows), True)
    placement = []
    for stage in range(stages):
        counts, messages = (found.get(stage, {}) for found in (computing, communicating))
        full = [rank for rank, count in counts.items() if count == whole[stage]]
        chosen = counts if whole[stage] else messages
        nearest = max(chosen, key=chosen.__getitem__, default=stage % len(rows))
        placement.append(sorted(full, key=lambda rank: -messages.get(rank, 0)) or [nearest])
    return placement


def _by_rank(rows: list[Words], computing: bool) -> dict[int, dict[int, int]]:
    """Return by stage, and by those ranks that have some, in rising order, what :func:`_by_stage` counts."""
    found: dict[int, dict[int, int]] = {}
    for rank, row in enumerate(rows):
        for stage, count in _by_stage(row, computing).items() if len(row) else ():
            found.setdefault(stage, {})[rank] = count
    return found


def _by_stage(words: Words, computing: bool) -> Counter[int]:
    """Count by stage the different operations that compute, or that communicate."""
    chosen = np.sort(words[(kinds(words) <= int(Kind.W)) == computing])
    different = chosen[np.diff(chosen, prepend=-1) != 0]  # as np.unique, which loads numpy.ma: 6 ms
    return Counter(op_stages(different).tolist())
