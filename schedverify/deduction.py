"""Reads a problem off a schedule that comes without one: ranks, placement, micro-batches; unit costs stand in."""

from __future__ import annotations

from collections import Counter
from typing import Any, Final

import numpy as np

from schedverify.op import INDEX_MASK, MICROBATCH_MASK, STAGE_SHIFT, Kind
from schedverify.problem import Problem
from schedverify.schedule import Schedule, Words, kinds

REMARK: Final = (
    "no problem is given: ranks, placement and micro-batches are read off the schedule, "
    "and unit costs stand in (F, I and W 1 tick each, B 2)"
)


def deduce_problem(schedule: Schedule) -> Problem:
    """Return the problem that a schedule seems to be for.

    A stage is placed on the ranks that hold all of its operations, else on the rank that holds most of them; one that
    does not stand in the schedule at all, on rank ``stage mod ranks``.
    """
    computes = [row[kinds(row) <= int(Kind.W)] for row in schedule.rows]
    words = np.concatenate(computes)
    letters = {Kind(kind).name for kind in np.unique(kinds(words)).tolist()}
    stages = int((words >> STAGE_SHIFT & INDEX_MASK).max(initial=0)) + 1
    data: dict[str, Any] = {
        "ranks": schedule.ranks,
        "microbatches": int((words & MICROBATCH_MASK).max(initial=0)) + 1,
        "stages": stages,
        "placement": _placement(computes, stages),
        "form": "split" if letters & {"I", "W"} else "fused" if "B" in letters else "inference",
    }
    return Problem.of(data | {"costs": _unit_costs(data["form"])})


def _unit_costs(form: str) -> dict[str, int]:
    parts = {"backward_input": 1, "backward_weight": 1} if form == "split" else {}
    return {"forward": 1} | ({"backward": 2} if form == "fused" else parts)


def _placement(computes: list[Words], stages: int) -> list[list[int]]:
    everything = (1 << 61) - 1
    by_rank: list[Counter[int]] = []
    for row in computes:
        ops = np.unique(row & everything)
        by_rank.append(Counter((ops >> STAGE_SHIFT & INDEX_MASK).tolist()))
    ops = np.unique(np.concatenate(computes) & everything)
    whole = Counter((ops >> STAGE_SHIFT & INDEX_MASK).tolist())
    placement = []
    for stage in range(stages):
        counts = [counter[stage] for counter in by_rank]
        full = [rank for rank, count in enumerate(counts) if count and count == whole[stage]]
        most = max(range(len(counts)), key=counts.__getitem__)
        placement.append(full or [most if counts[most] else stage % len(counts)])
    return placement
