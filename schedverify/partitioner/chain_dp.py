"""The best partition with one stage a rank, by dynamic programming over (stage, cut).

:func:`has_partition` and :func:`cheapest_partition` are the way in. A graph of layers goes to
:mod:`~schedverify.partitioner.downset_dp`; a chain is done here, where what stands before a cut is a beginning of the
chain, so that the cuts at which a stage may begin are a window of neighbouring ones::

    cut              0   1   2   3   4   5   6      layers 0..5; cut i has the layers 0..i-1 before it
    work             0   4   7  12  13  15  20      prefix sums
    first (bound 9)  0   0   0   1   1   2   3      a stage that ends at cut j may begin at first[j] .. j-1

Prefix sums never fall, so ``first`` comes from one binary search for all cuts at once. A stage then
takes O(cuts log cuts): whether a window holds a reachable cut is a difference of counts, and the least value in a
window is read from a table of the minima over runs of 1, 2, 4, ... cuts.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schedverify.partitioner.cuts import NEVER, Cuts, Numbers
from schedverify.partitioner.requirements import StageRequirements


def has_partition(cuts: Cuts, requirements: StageRequirements, bound: int) -> bool:
    """Whether the stages can take all layers, at least one each, with no rank and no link busy for over ``bound``.

    Of a chain ``reached[j]`` says whether the stages so far can end at cut ``j``; with ``count`` as the prefix sums of
    it, the window ``first[j] .. j-1`` holds a reached cut where ``count[j] > count[first[j]]``::

        reached   1  0  0  1  1  0  0
        count     0  1  1  1  2  3  3  3      count[j] = how many of reached[:j] are set
    """
    if cuts.members is not None:
        from schedverify.partitioner.downset_dp import graph_has_partition

        return graph_has_partition(cuts, requirements, bound)
    places = np.arange(len(cuts))
    reached = places == 0
    for stage in range(requirements.stages):
        count = np.concatenate(([0], np.cumsum(reached)))
        first = _first_begin(cuts, requirements, stage, bound)
        reached = (count[places] > count[first]) & requirements.may_end(cuts, stage, bound)
    return bool(reached[-1])


def cheapest_partition(cuts: Cuts, requirements: StageRequirements, bound: int) -> list[int]:
    """Return the cuts, first and last included, of the partition within the bound that sends the fewest bytes.

    Of a chain ``tables[s][j]`` is the least number of bytes over the cuts when ``s`` stages end at cut ``j``. The cuts
    are then read backwards: the end of stage ``s`` is known, and it begins at the best cut of its window.
    """
    if cuts.members is not None:
        from schedverify.partitioner.downset_dp import cheapest_in_graph

        return cheapest_in_graph(cuts, requirements, bound)
    best = np.where(np.arange(len(cuts)) == 0, np.int64(0), NEVER)
    tables, windows = [best], []
    for stage in range(requirements.stages):
        windows.append(_first_begin(cuts, requirements, stage, bound))
        best = np.minimum(window_minima(best, windows[-1]), NEVER)
        best = np.where(requirements.may_end(cuts, stage, bound) & (best < NEVER), best + cuts.crossing, NEVER)
        tables.append(best)
    chosen = [len(cuts) - 1]
    for stage in reversed(range(requirements.stages)):
        first = int(windows[stage][chosen[-1]])
        chosen.append(first + int(np.argmin(tables[stage][first : chosen[-1]])))
    return chosen[::-1]


def _first_begin(cuts: Cuts, requirements: StageRequirements, stage: int, bound: int) -> Numbers:
    """Return by end the first cut at which the stage may begin, shape (cuts,); the end itself where it may nowhere."""
    first = requirements.earliest_begin(cuts, stage, bound)
    if requirements.capacity is not None:
        prefix = requirements.prefix_bytes(cuts, stage)
        first = np.maximum(first, np.searchsorted(prefix, prefix - requirements.capacity[stage]))
    places = np.arange(len(cuts))
    for layer in requirements.alone:
        # A stage that ends at layer + 1 begins at the layer, and one that ends later begins behind it.
        first = np.maximum(first, np.where(places > layer + 1, layer + 1, np.where(places > layer, layer, 0)))
    return np.minimum(first, places)


def window_minima(values: Numbers, first: Numbers) -> Numbers:
    """Return for each place ``j`` the least of ``values[first[j]:j]``, NEVER where that is empty; shape (cuts,).

    ``tables[k][i]`` is the least of ``values[i : i + 2**k]``. Any window is covered by two runs of one length, which
    may overlap, as in this one of 6 places with k = 2::

        first[j]             j
        |  a  a  a  a        |     tables[2][first[j]]
        |        b  b  b  b  |     tables[2][j - 4]
    """
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
