"""Partitions with one stage a rank by dynamic programming: over a chain's beginnings, or over a graph's down-sets."""

from __future__ import annotations

from schedverify.partitioner import chain_dp
from schedverify.partitioner.cuts import Cuts
from schedverify.partitioner.requirements import Demands


def can_end(cuts: Cuts, demands: Demands, bound: int) -> bool:
    """Whether the stages can take all layers, at least one each, with no rank and no link busy for longer."""
    if cuts.members is None:
        return chain_dp.can_end(cuts, demands, bound)
    from schedverify.partitioner import downset_dp

    return downset_dp.can_end(cuts, demands, bound)


def least_crossing(cuts: Cuts, demands: Demands, bound: int) -> list[int]:
    """Return the cuts, first and last included, over which the fewest bytes go, of partitions within the bound."""
    if cuts.members is None:
        return chain_dp.least_crossing(cuts, demands, bound)
    from schedverify.partitioner import downset_dp

    return downset_dp.least_crossing(cuts, demands, bound)
