"""Partitions of a chain: what stands before a cut is a beginning, so that a stage may begin anywhere in a window."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schedverify.partitioner.cuts import Cuts, Numbers
from schedverify.partitioner.requirements import Demands

NEVER = np.int64(1) << 62


def can_end(cuts: Cuts, demands: Demands, bound: int) -> bool:
    """Whether the stages can take all layers, at least one each, with no rank and no link busy for longer."""
    places = np.arange(len(cuts))
    reached = places == 0
    for stage in range(demands.stages):
        count = np.concatenate(([0], np.cumsum(reached)))
        reached = (count[places] > count[_begin(cuts, demands, stage, bound)]) & demands.ends(cuts, stage, bound)
    return bool(reached[-1])


def least_crossing(cuts: Cuts, demands: Demands, bound: int) -> list[int]:
    """Return the cuts, first and last included, over which the fewest bytes go, of partitions within the bound."""
    best = np.where(np.arange(len(cuts)) == 0, np.int64(0), NEVER)
    table, windows = [best], []
    for stage in range(demands.stages):
        windows.append(_begin(cuts, demands, stage, bound))
        best = np.minimum(_least_in(best, windows[-1]), NEVER)
        best = np.where(demands.ends(cuts, stage, bound) & (best < NEVER), best + cuts.crossing, NEVER)
        table.append(best)
    chosen = [len(cuts) - 1]
    for stage in reversed(range(demands.stages)):
        first = int(windows[stage][chosen[-1]])
        chosen.append(first + int(np.argmin(table[stage][first : chosen[-1]])))
    return chosen[::-1]


def _begin(cuts: Cuts, demands: Demands, stage: int, bound: int) -> Numbers:
    """Return by cut the first cut at which the stage may begin; the cut itself where it may nowhere."""
    first = demands.earliest(cuts, stage, bound)
    if demands.capacity is not None:
        held = demands.held(cuts, stage)
        first = np.maximum(first, np.searchsorted(held, held - demands.capacity[stage]))
    places = np.arange(len(cuts))
    for layer in demands.alone:
        first = np.maximum(first, np.where(places > layer + 1, layer + 1, np.where(places > layer, layer, 0)))
    return np.minimum(first, places)


def _least_in(values: Numbers, first: Numbers) -> Numbers:
    """Return for each place j the least of ``values[first[j]:j]``, NEVER where that is empty."""
    places = np.arange(len(values))
    size = places - first
    level = np.zeros(len(values), dtype=np.int64)
    level[size > 0] = np.log2(size[size > 0]).astype(np.int64)
    tables = [values]
    for power in range(int(level.max(initial=0))):
        half = 1 << power
        tables.append(np.minimum(tables[-1], np.concatenate((tables[-1][half:], np.full(half, NEVER)))))
    stacked = np.stack(tables)
    least = np.minimum(stacked[level, first], stacked[level, np.maximum(places - (1 << level), 0)])
    result: NDArray[np.int64] = np.where(size > 0, least, NEVER)
    return result
