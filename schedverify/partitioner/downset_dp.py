"""The best partition of a graph with one stage a rank: chains of nested down-sets, compiled, as their pairs are many.

Asked by :mod:`~schedverify.partitioner.chain_dp` where the layers are no chain. Import it where it is used: it brings
the compiler with it. A cut is a down-set of layers, kept as the bits of 64-bit words::

    layer                0 1 2 3 ... 63   64 65 ...
    down_sets.bits[c]   [   word 0     ] [ word 1  ]    bit l of the row: layer l stands before cut c

Cut ``a`` can begin a stage that ends at cut ``b`` where ``bits[a] & ~bits[b]`` is 0 in every word (a is nested in b);
the stage has the layers ``bits[b] & ~bits[a]``.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schedverify.core.ending import Check, checked
from schedverify.partitioner.cuts import NEVER, Cuts, Numbers
from schedverify.partitioner.requirements import StageRequirements

_NEVER = int(NEVER)
_PAIRS = 20_000_000
"""Pairs of cuts that are looked at between two looks at the clock."""


def graph_has_partition(cuts: Cuts, requirements: StageRequirements, bound: int, check: Check) -> bool:
    """Answer :func:`~schedverify.partitioner.chain_dp.has_partition` for a graph."""
    return bool(_tables(cuts, requirements, bound, check)[0][-1] < NEVER)


def cheapest_in_graph(cuts: Cuts, requirements: StageRequirements, bound: int, check: Check) -> list[int]:
    """Answer :func:`~schedverify.partitioner.chain_dp.cheapest_partition` for a graph."""
    chosen = [len(cuts) - 1]
    for begins in reversed(_tables(cuts, requirements, bound, check)[1]):
        chosen.append(int(begins[chosen[-1]]))
    return chosen[::-1]


def _tables(cuts: Cuts, requirements: StageRequirements, bound: int, check: Check) -> tuple[Numbers, list[Numbers]]:
    """Return the least bytes sent when all stages end at each cut, shape (cuts,), and by stage where it then begins.

    For stage ``s``, ``begins[s][c]`` is the cut where the stage begins if it ends at cut ``c``, -1 where it cannot.
    """
    best = np.where(np.arange(len(cuts)) == 0, np.int64(0), NEVER)
    begins, down_sets = [], _down_sets_of(cuts, requirements)
    for stage in range(requirements.stages):
        room = requirements.capacity[stage] if requirements.capacity else _NEVER
        moments = np.array(requirements.moments_of_stage(stage) or [(0, 0)], dtype=np.int64)
        first = np.searchsorted(cuts.work, cuts.work - bound // requirements.slowness[stage])
        may_end = requirements.may_end(cuts, stage, bound)
        least, begin = np.full(len(best), _NEVER), np.full(len(best), -1)
        many = max(1, _PAIRS // len(best))
        for low in checked(range(0, len(best), many), check):
            ends = low, min(low + many, len(best))
            _extend((least, begin), ends, best, first, moments, room, may_end, down_sets)
        best = np.where(least < NEVER, least + cuts.crossing, NEVER)
        begins.append(begin)
    return best, begins


class _DownSets(NamedTuple):
    """The down-sets of all cuts and what they come to, as the compiled loops read them.

    Attributes
    ----------
    bits
        The layers before each cut, shape (cuts, words).
    alone
        The layers that must be a stage of their own, shape (words,).
    sizes
        How many layers stand before each cut, shape (cuts,).
    resident, activation, stash, entry, kept, kept_offsets
        As in :class:`~schedverify.partitioner.cuts.Cuts`; of ``kept`` the layers alone.
    tied, having
        Bytes of each weight that several layers have, shape (weights,), and how many of these stand before each cut,
        shape (weights, cuts).
    """

    bits: NDArray[np.uint64]
    alone: NDArray[np.uint64]
    sizes: Numbers
    resident: Numbers
    activation: Numbers
    stash: Numbers
    entry: Numbers
    kept: Numbers
    kept_offsets: Numbers
    tied: Numbers
    having: Numbers


def _down_sets_of(cuts: Cuts, requirements: StageRequirements) -> _DownSets:
    members = cuts.members
    if members is None:
        raise ValueError("a chain has no sets; see chain_dp.py")
    alone = np.zeros((1, members.shape[1]), dtype=np.bool_)
    alone[0, list(requirements.alone)] = True
    held = (cuts.resident, cuts.activation, cuts.stash, cuts.entry, np.ascontiguousarray(cuts.kept[:, 1]))
    tied = np.array([weight.resident for weight in requirements.tied], dtype=np.int64)
    having = [cuts.count_before(weight.layers) for weight in requirements.tied]
    counts = np.array(having, dtype=np.int64).reshape(len(tied), len(cuts))
    return _DownSets(_bits(members), _bits(alone)[0], members.sum(axis=1), *held, cuts.kept_offsets, tied, counts)


def _bits(members: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Return rows of flags, shape (rows, layers), as bits of 64-bit words, shape (rows, layers / 64 rounded up)."""
    octets = np.packbits(members, axis=1, bitorder="little")
    padded = np.zeros((len(members), -(-octets.shape[1] // 8) * 8), dtype=np.uint8)
    padded[:, : octets.shape[1]] = octets
    return padded.view(np.uint64)


@njit(cache=True)
def _can_be_stage(sets: _DownSets, begin: int, end: int) -> bool:
    """Whether the cuts are nested, and no layer that must be alone shares the stage between them."""
    many = sets.sizes[end] - sets.sizes[begin] > 1
    for word in range(sets.bits.shape[1]):
        if sets.bits[begin, word] & ~sets.bits[end, word]:
            return False
        if many and sets.bits[end, word] & ~sets.bits[begin, word] & sets.alone[word]:
            return False
    return True


@njit(cache=True)
def _bytes_between(sets: _DownSets, begin: int, end: int, moments: Numbers) -> int:
    """Return the most bytes that a stage between two cuts holds, alone on its rank; moments of shape (moments, 2)."""
    active, stash = sets.activation[end] - sets.activation[begin], sets.stash[end] - sets.stash[begin]
    for place in range(sets.kept_offsets[begin], sets.kept_offsets[begin + 1]):
        layer = sets.kept[place]
        if sets.bits[end, layer >> 6] >> np.uint64(layer & 63) & np.uint64(1):
            active += sets.entry[layer]
    active = max(active, stash)
    most = 0
    for moment in range(len(moments)):
        most = max(most, moments[moment, 0] * active + moments[moment, 1] * stash)
    held: int = sets.resident[end] - sets.resident[begin] + most
    for weight in range(len(sets.tied)):
        held -= sets.tied[weight] * max(sets.having[weight, end] - sets.having[weight, begin] - 1, 0)
    return held


@njit(cache=True)
def _extend(
    tables: tuple[Numbers, Numbers], ends: tuple[int, int], best: Numbers, first: Numbers, moments: Numbers, room: int,
    may_end: NDArray[np.bool_], sets: _DownSets,
) -> None:  # fmt: skip
    """Write by cut, for a range of ``ends``, the least of ``best`` at which a stage may begin that ends there.

    Of the ``tables``, the first gets that least value, the second the begin.
    """
    least, begins = tables
    for end in range(ends[0], ends[1]):
        if not may_end[end]:
            continue
        for begin in range(first[end], end):
            better = best[begin] < least[end] and _can_be_stage(sets, begin, end)
            if better and (room == _NEVER or _bytes_between(sets, begin, end, moments) <= room):
                least[end], begins[end] = best[begin], begin
