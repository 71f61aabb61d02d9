"""Partitions with one stage a rank by dynamic programming: over a chain's beginnings, or over a graph's down-sets."""

from __future__ import annotations

from schedverify.partition import chain
from schedverify.partition.cuts import Cuts
from schedverify.partition.demands import Demands


def can_end(cuts: Cuts, demands: Demands, bound: int) -> bool:
    """Whether the stages can take all layers, at least one each, with no rank and no link busy for longer."""
    if cuts.members is None:
        return chain.can_end(cuts, demands, bound)
    from schedverify.partition import nested

    return nested.can_end(cuts, demands, bound)


def least_crossing(cuts: Cuts, demands: Demands, bound: int) -> list[int]:
    """Return the cuts, first and last included, over which the fewest bytes go, of partitions within the bound."""
    if cuts.members is None:
        return chain.least_crossing(cuts, demands, bound)
    from schedverify.partition import nested

    return nested.least_crossing(cuts, demands, bound)
