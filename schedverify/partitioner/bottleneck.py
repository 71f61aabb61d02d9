"""The best partition of a model into stages: the least bottleneck, and among those the least communication."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from schedverify.core.model import Model
from schedverify.partitioner.cp_sat import MOST_PAIRED, ByRank
from schedverify.partitioner.cuts import MOST_SETS, Cuts, cuts_of
from schedverify.partitioner.exact import can_end, least_crossing
from schedverify.partitioner.infeasibility import why_none
from schedverify.partitioner.requirements import Demands, States, demands_of

Ints = tuple[int, ...]


class Partition(NamedTuple):
    """Which layers each stage has, and what that comes to."""

    layers: tuple[Ints, ...]
    """By stage, the positions of its layers in the model."""
    bottleneck: int
    """Ticks that the busiest rank or link takes for one micro-batch; of a rank, forward and whole backward."""
    crossing: int
    """Bytes over all cuts in one micro-batch's forward."""
    linearized: bool = False
    """Whether a graph was cut as a chain in the order of its layers, because it has too many ways to be cut."""
    proved: bool = True
    """Whether no partition has a lower bottleneck; False only where the solver's time was up."""


def least_bottleneck(
    model: Model,
    placement: Ints,
    states: States,
    *,
    ranks: int | None = None,
    time_limit: float = 20,
    workers: int = 2,
    solver: bool = False,
) -> Partition:
    """Return the partition with the least bottleneck, and among those with the fewest bytes over the cuts.

    Exact over all nested down-sets of the layers' graph: the bottleneck by bisection, each candidate decided by
    dynamic programming over (stage, cut). With several stages on a rank, whose loads add up, CP-SAT decides, and the
    largest stage counts before the bytes.

    Parameters
    ----------
    placement
        The rank of each stage.
    states
        What is in flight where it is most, which must fit the rank's memory: by rank, for each such moment the
        micro-batches of each of the rank's stages, in rising order.
    ranks
        How many ranks there are, if not all have a stage.
    time_limit, workers
        Seconds and threads of the solver, where it is asked.
    solver
        Whether it is asked in any case.

    Raises
    ------
    InputError
        If the numbers of ranks, stages and layers do not go together.
    InfeasibleError
        If no partition fits memory and wishes; says which wish, or how much memory is lacking where.
    UndecidedError
        If the solver found no partition in the time, nor a proof that there is none.
    """
    by_rank = solver or len(set(placement)) < len(placement)
    cuts = cuts_of(model, MOST_PAIRED if by_rank else MOST_SETS)
    demands = demands_of(model, cuts, placement, ranks or max(placement) + 1, states)
    ceiling = max(int(cuts.work[-1]) * max(demands.slowness), _busiest_link(cuts, demands))
    if by_rank:
        found = ByRank(cuts, demands, ceiling).solve(time_limit, workers)
    else:
        bottleneck = _bisect(cuts, demands)
        found = None if bottleneck is None else (least_crossing(cuts, demands, bottleneck), bottleneck, True)
    if found is None:
        raise why_none(model, cuts, demands, ceiling, (time_limit, workers) if by_rank else None)
    chosen, bottleneck, proved = found
    layers = tuple(cuts.layers_between(first, last) for first, last in pairwise(chosen))
    return Partition(layers, bottleneck, int(cuts.crossing[chosen].sum()), cuts.linearized, proved)


def _bisect(cuts: Cuts, demands: Demands) -> int | None:
    """Return the least bound that some partition keeps, or None where memory and wishes leave none."""
    total = int(cuts.work[-1])
    low = total * min(demands.slowness) // demands.stages
    high = max(total * max(demands.slowness), _busiest_link(cuts, demands))
    step = max(total // demands.stages, 1)
    while low + step < high and not can_end(cuts, demands, low + step):
        low, step = low + step + 1, 2 * step
    high = min(high, low + step)
    if not can_end(cuts, demands, high):
        return None
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if can_end(cuts, demands, middle) else (middle + 1, high)
    return low


def _busiest_link(cuts: Cuts, demands: Demands) -> int:
    """Return the most ticks that a link can be busy for in one micro-batch."""
    return 2 * -(-int(cuts.crossing.max()) // min(demands.bandwidth)) if demands.bandwidth else 0
