"""The best partition with one stage a rank, by dynamic programming over (stage, cut).

:func:`has_partition` and :func:`cheapest_partition` are the way in. A graph of layers goes to
:mod:`~schedverify.partitioner.downset_dp`; a chain is done here, where what stands before a cut is a beginning of the
chain. A stage that gets one layer more at its end takes and holds no less (at its begin it may hold less: what it read
from another stage is then there already), so that the cuts at which it may end are a window of neighbouring ones::

    cut              0   1   2   3   4   5   6      layers 0..5; cut i has the layers 0..i-1 before it
    work             0   4   7  12  13  15  20      prefix sums
    last (bound 9)   2   4   5   6   6   6   6      a stage that begins at cut i may end at i+1 .. last[i]

Prefix sums never fall, so ``last`` comes from one binary search for all cuts at once. From the last stage back to the
first, a stage then takes O(cuts log cuts): whether a window holds a cut from which the stages behind can take the rest
is a difference of counts, and the least value in a window is read from a table of the minima over runs of 1, 2, 4, ...
cuts.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from schedverify.core.ending import Check, go_on
from schedverify.partitioner.cuts import NEVER, Cuts, Numbers
from schedverify.partitioner.requirements import StageRequirements


def has_partition(cuts: Cuts, requirements: StageRequirements, bound: int, check: Check = go_on) -> bool:
    """Whether the stages can take all layers, at least one each, with no rank and no link busy for over ``bound``.

    Of a chain ``rest[i]`` says whether the stages from one on can begin at cut ``i`` and take all that is left; with
    ``count`` as the prefix sums of where the stage before may end, its window ``i+1 .. last[i]`` holds such a cut where
    ``count[last[i] + 1] > count[i + 1]``::

        ends      0  0  1  1  0  0  1
        count     0  0  0  1  2  2  2  3      count[i] = how many of ends[:i] are set
    """
    if cuts.members is not None:
        from schedverify.partitioner.downset_dp import graph_has_partition

        return graph_has_partition(cuts, requirements, bound, check)
    places = np.arange(len(cuts))
    rest = places == len(cuts) - 1
    check()
    for stage in reversed(range(requirements.stages)):
        ends = rest & requirements.may_end(cuts, stage, bound)
        count = np.concatenate(([0], np.cumsum(ends)))
        rest = count[_last_end(cuts, requirements, stage, bound) + 1] > count[places + 1]
    return bool(rest[0])


def cheapest_partition(cuts: Cuts, requirements: StageRequirements, bound: int, check: Check = go_on) -> list[int]:
    """Return the cuts, first and last included, of the partition within the bound that sends the fewest bytes.

    Of a chain ``tables[s][i]`` is the least number of bytes over the ends of the stages from ``s`` on, where stage
    ``s`` ends at cut ``i``. The cuts are then read forwards: the begin of stage ``s`` is known, and it ends at the best
    cut of its window.
    """
    if cuts.members is not None:
        from schedverify.partitioner.downset_dp import cheapest_in_graph

        return cheapest_in_graph(cuts, requirements, bound, check)
    places = np.arange(len(cuts))
    rest = np.where(places == len(cuts) - 1, np.int64(0), NEVER)
    tables, windows = [], []
    check()
    for stage in reversed(range(requirements.stages)):
        last = _last_end(cuts, requirements, stage, bound)
        ends = requirements.may_end(cuts, stage, bound) & (rest < NEVER)
        tables.append(np.where(ends, cuts.crossing + np.where(ends, rest, 0), NEVER))
        windows.append(last)
        rest = np.minimum(window_minima(tables[-1], places + 1, last + 1), NEVER)
    chosen = [0]
    for table, last in zip(reversed(tables), reversed(windows), strict=True):
        begin = chosen[-1]
        chosen.append(begin + 1 + int(np.argmin(table[begin + 1 : last[begin] + 1])))
    return chosen


def _last_end(cuts: Cuts, requirements: StageRequirements, stage: int, bound: int) -> Numbers:
    """Return by begin the last cut at which the stage may end, shape (cuts,); the begin itself where it may nowhere."""
    last = requirements.latest_end(cuts, stage, bound)
    if requirements.capacity is not None:
        last = np.minimum(last, _last_that_fits(cuts, requirements, stage))
    places = np.arange(len(cuts))
    for layer in requirements.alone:
        # A stage that begins at the layer ends right behind it, and one that begins before it ends before it.
        last = np.minimum(last, np.where(places == layer, layer + 1, np.where(places < layer, layer, len(cuts) - 1)))
    return np.maximum(last, places)


@lru_cache(maxsize=256)
def _last_that_fits(cuts: Cuts, requirements: StageRequirements, stage: int) -> Numbers:
    """Return by begin the last cut at which the stage may end within its rank's memory, shape (cuts,).

    Of layers that read from the one before alone a stage keeps no entry but that of its first, so that all begins are
    looked up at once, in the prefix sums of activations as in those of what waits for W, of which the larger counts.
    """
    room = (requirements.capacity or ())[stage]
    if (cuts.kept[:, 0] != cuts.kept[:, 1]).any():
        rows = (requirements.bytes_from(cuts, stage, begin) for begin in range(len(cuts)))
        ends = [begin + int(np.searchsorted(row[begin:], room, side="right")) - 1 for begin, row in enumerate(rows)]
        return np.array(ends, dtype=np.int64)
    entry = np.zeros(len(cuts), dtype=np.int64)
    entry[cuts.kept[:, 0]] = cuts.entry[cuts.kept[:, 1]]
    last = np.full(len(cuts), len(cuts) - 1)
    for count, waiting in requirements.moments_of_stage(stage) or [(0, 0)]:
        first = count * entry
        for held, more in ((cuts.activation, first), (cuts.stash, np.zeros_like(first))):
            prefix = cuts.resident + count * held + waiting * cuts.stash
            last = np.minimum(last, np.searchsorted(prefix, prefix + room - more, side="right") - 1)
    for begin in range(max((weight.layers[-2] + 1 for weight in requirements.tied), default=0)):
        # Two layers with one weight can stand behind this cut: then they hold less than their sum.
        row = requirements.bytes_from(cuts, stage, begin)[begin:]
        last[begin] = begin + int(np.searchsorted(row, room, side="right")) - 1
    return last


def window_minima(values: Numbers, first: Numbers, stop: Numbers) -> Numbers:
    """Return for each place ``i`` the least of ``values[first[i]:stop[i]]``, NEVER where that is empty; shape (cuts,).

    ``tables[k][i]`` is the least of ``values[i : i + 2**k]``. Any window is covered by two runs of one length, which
    may overlap, as in this one of 6 places with k = 2::

        first[i]             stop[i]
        |  a  a  a  a        |     tables[2][first[i]]
        |        b  b  b  b  |     tables[2][stop[i] - 4]
    """
    size = np.maximum(stop - first, 0)
    level = np.zeros(len(first), dtype=np.int64)
    level[size > 0] = np.log2(size[size > 0]).astype(np.int64)
    tables = [values]
    for power in range(int(level.max(initial=0))):
        half = 1 << power
        tables.append(np.minimum(tables[-1], np.concatenate((tables[-1][half:], np.full(half, NEVER)))))
    stacked, end = np.stack(tables), len(values) - 1
    least = np.minimum(stacked[level, np.minimum(first, end)], stacked[level, np.clip(stop - (1 << level), 0, end)])
    result: NDArray[np.int64] = np.where(size > 0, least, NEVER)
    return result
