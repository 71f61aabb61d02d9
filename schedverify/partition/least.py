"""The best partition of a model into stages: the least bottleneck, and among those the least communication."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from schedverify.errors import Fault, InputError
from schedverify.layers import Model
from schedverify.partition import chain
from schedverify.partition.asked import demands_of
from schedverify.partition.cuts import Cuts, cuts_of
from schedverify.partition.demands import Demands

Ints = tuple[int, ...]


class Partition(NamedTuple):
    """Which layers each stage has, and what that comes to."""

    layers: tuple[Ints, ...]
    """By stage, the positions of its layers in the model."""
    bottleneck: int
    """Ticks that the busiest stage or link takes for one micro-batch; of a stage, forward and whole backward."""
    crossing: int
    """Bytes over all cuts in one micro-batch's forward."""
    linearized: bool = False
    """Whether a graph was cut as a chain in the order of its layers, because it has too many ways to be cut."""


def least_bottleneck(model: Model, placement: Ints, in_flight: Ints, ranks: int | None = None) -> Partition:
    """Return the partition with the least bottleneck, and among those with the fewest bytes over the cuts.

    Exact over all nested down-sets of the layers' graph: the bottleneck by bisection, each candidate decided by
    dynamic programming over (stage, cut).

    Parameters
    ----------
    placement
        The rank of each stage.
    in_flight
        By stage, micro-batches in flight at its peak; what it holds must fit its rank's memory.
    ranks
        How many ranks there are, if not all have a stage.

    Raises
    ------
    InputError
        If no partition fits memory and wishes, or the numbers of ranks, stages and layers do not go together.
    """
    cuts = cuts_of(model)
    demands = demands_of(model, cuts, placement, ranks or max(placement) + 1, in_flight)
    bottleneck = _bisect(cuts, demands)
    if bottleneck is None:
        raise InputError(Fault("devices.memory", _no_partition(model, demands), "more stages, memory or fewer wishes"))
    chosen = _least_crossing(cuts, demands, bottleneck)
    layers = tuple(cuts.layers_between(first, last) for first, last in pairwise(chosen))
    return Partition(layers, bottleneck, int(cuts.crossing[chosen].sum()), cuts.linearized)


def _bisect(cuts: Cuts, demands: Demands) -> int | None:
    """Return the least bound that some partition keeps, or None where memory and wishes leave none."""
    total = int(cuts.work[-1])
    links = 0
    if demands.bandwidth is not None and demands.bandwidth:
        links = 2 * -(-int(cuts.crossing.max()) // min(demands.bandwidth))
    low, high = total * min(demands.slowness) // demands.stages, max(total * max(demands.slowness), links)
    step = max(total // demands.stages, 1)
    while low + step < high and not _can_end(cuts, demands, low + step):
        low, step = low + step + 1, 2 * step
    high = min(high, low + step)
    if not _can_end(cuts, demands, high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if _can_end(cuts, demands, middle) else (middle + 1, high)
    return low


def _can_end(cuts: Cuts, demands: Demands, bound: int) -> bool:
    if cuts.members is None:
        return chain.can_end(cuts, demands, bound)
    from schedverify.partition import nested

    return nested.can_end(cuts, demands, bound)


def _least_crossing(cuts: Cuts, demands: Demands, bound: int) -> list[int]:
    if cuts.members is None:
        return chain.least_crossing(cuts, demands, bound)
    from schedverify.partition import nested

    return nested.least_crossing(cuts, demands, bound)


def _no_partition(model: Model, demands: Demands) -> str:
    largest = max(model.layers, key=lambda layer: layer.resident + layer.activation)
    held = largest.resident + largest.activation
    return f"no cut into {demands.stages} stages keeps memory and wishes; {largest.name} alone takes {held} bytes"
