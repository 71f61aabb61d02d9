"""Partitions of a graph: chains of nested down-sets, compiled, because there are many pairs of them.

Import it where it is used: it brings the compiler with it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

from schedverify.partitioner.chain_dp import NEVER
from schedverify.partitioner.cuts import Cuts, Numbers
from schedverify.partitioner.requirements import Demands

_NEVER = int(NEVER)


def can_end(cuts: Cuts, demands: Demands, bound: int) -> bool:
    """Whether the stages can take all layers, at least one each, with no rank and no link busy for longer."""
    return bool(_tables(cuts, demands, bound)[0][-1][-1] < NEVER)


def least_crossing(cuts: Cuts, demands: Demands, bound: int) -> list[int]:
    """Return the cuts, first and last included, over which the fewest bytes go, of partitions within the bound."""
    _, origins = _tables(cuts, demands, bound)
    chosen = [len(cuts) - 1]
    for origin in reversed(origins):
        chosen.append(int(origin[chosen[-1]]))
    return chosen[::-1]


def _tables(cuts: Cuts, demands: Demands, bound: int) -> tuple[list[Numbers], list[Numbers]]:
    """Return by stage (and before the first) the least bytes up to each cut, and by stage where it then begins."""
    best = np.where(np.arange(len(cuts)) == 0, np.int64(0), NEVER)
    tables, origins = [best], []
    words, alone = _words(_members(cuts)), np.zeros((1, _members(cuts).shape[1]), dtype=np.bool_)
    alone[0, list(demands.alone)] = True
    parts = _Sets(words, _words(alone)[0], _members(cuts).sum(axis=1))
    for stage in range(demands.stages):
        room = demands.capacity[stage] if demands.capacity else _NEVER
        first, held = demands.earliest(cuts, stage, bound), demands.held(cuts, stage)
        least, origin = _extend(best, first, held, room, demands.ends(cuts, stage, bound), parts)
        best = np.where(least < NEVER, least + cuts.crossing, NEVER)
        tables.append(best)
        origins.append(origin)
    return tables, origins


class _Sets(NamedTuple):
    """The layers before each cut as bits of 64-bit words, those that stand alone, and how many are before each cut."""

    words: NDArray[np.uint64]
    alone: NDArray[np.uint64]
    sizes: Numbers


def _members(cuts: Cuts) -> NDArray[np.bool_]:
    if cuts.members is None:
        raise ValueError("a chain has no sets; see chain.py")
    return cuts.members


def _words(members: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Return rows of flags as the bits of 64-bit words."""
    packed = np.packbits(members, axis=1, bitorder="little")
    padded = np.zeros((len(members), -(-packed.shape[1] // 8) * 8), dtype=np.uint8)
    padded[:, : packed.shape[1]] = packed
    return padded.view(np.uint64)


@njit(cache=True)
def _stage(sets: _Sets, begin: int, end: int) -> bool:
    """Whether the layers between two cuts can be a stage: the cuts are nested, and who stands alone does."""
    many = sets.sizes[end] - sets.sizes[begin] > 1
    for word in range(sets.words.shape[1]):
        if sets.words[begin, word] & ~sets.words[end, word]:
            return False
        if many and sets.words[end, word] & ~sets.words[begin, word] & sets.alone[word]:
            return False
    return True


@njit(cache=True)
def _extend(
    best: Numbers, first: Numbers, held: Numbers, room: int, ends: NDArray[np.bool_], sets: _Sets
) -> tuple[Numbers, Numbers]:
    """Return by cut the least of ``best`` at which a stage may begin that ends there, and where that is."""
    least = np.full(len(best), _NEVER)
    origin = np.full(len(best), -1)
    for end in range(len(best)):
        if not ends[end]:
            continue
        for begin in range(first[end], end):
            if best[begin] < least[end] and held[end] - held[begin] <= room and _stage(sets, begin, end):
                least[end], origin[end] = best[begin], begin
    return least, origin
