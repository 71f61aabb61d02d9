"""The best partition of a model into stages: the least bottleneck, and among those the least communication."""

from __future__ import annotations

from bisect import bisect_left
from itertools import pairwise
from typing import NamedTuple

from schedverify.core.model import Model
from schedverify.partitioner.chain_dp import cheapest_partition, has_partition
from schedverify.partitioner.cp_sat import MOST_PAIRED, PartitionModel
from schedverify.partitioner.cuts import MOST_SETS, Cuts, Ints, cuts_of
from schedverify.partitioner.infeasibility import infeasibility_error
from schedverify.partitioner.requirements import StageRequirements, States, requirements_of


class Partition(NamedTuple):
    """A partition of a model into stages: which layers each stage has, and what that comes to.

    Attributes
    ----------
    layers
        By stage, the positions of its layers in the model.
    bottleneck
        Ticks that the busiest rank or link takes for one micro-batch; of a rank, forward and whole backward.
    crossing
        Bytes over all cuts in one micro-batch's forward.
    linearized
        Whether a graph was cut as a chain in the order of its layers, because it has too many ways to be cut.
    proved
        Whether no partition has a lower bottleneck; False only where the solver's time was up.
    """

    layers: tuple[Ints, ...]
    bottleneck: int
    crossing: int
    linearized: bool = False
    proved: bool = True


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
        What is in flight at the moments at which it is most, which must fit the rank's memory: by rank, for each such
        moment the micro-batches of each of the rank's stages, in rising order.
    ranks
        How many ranks there are, if not all have a stage.
    time_limit, workers
        Seconds and threads of the solver, where it is called.
    solver
        Whether it is called even where every rank has one stage.

    Raises
    ------
    InputError
        If the numbers of ranks, stages and layers do not go together.
    InfeasibleError
        If no partition fits memory and constraints; says which constraint, or how much memory is lacking where.
    UndecidedError
        If the solver found no partition in the time, nor a proof that there is none.
    """
    by_rank = solver or len(set(placement)) < len(placement)
    cuts = cuts_of(model, MOST_PAIRED if by_rank else MOST_SETS)
    requirements = requirements_of(model, cuts, placement, ranks or max(placement) + 1, states)
    busiest_link = 2 * -(-int(cuts.crossing.max()) // min(requirements.bandwidth)) if requirements.bandwidth else 0
    ceiling = max(int(cuts.work[-1]) * max(requirements.slowness), busiest_link)
    if by_rank:
        found = PartitionModel(cuts, requirements, ceiling).solve(time_limit, workers)
    else:
        bottleneck = _bisect(cuts, requirements, ceiling)
        found = None if bottleneck is None else (cheapest_partition(cuts, requirements, bottleneck), bottleneck, True)
    if found is None:
        raise infeasibility_error(model, cuts, requirements, ceiling, (time_limit, workers) if by_rank else None)
    chosen, bottleneck, proved = found
    layers = tuple(cuts.layers_between(first, last) for first, last in pairwise(chosen))
    return Partition(layers, bottleneck, int(cuts.crossing[chosen].sum()), cuts.linearized, proved)


def _bisect(cuts: Cuts, requirements: StageRequirements, ceiling: int) -> int | None:
    """Return the least bottleneck of any partition, or None where memory and constraints leave none."""
    total = int(cuts.work[-1])
    low = total * min(requirements.slowness) // requirements.stages
    step = max(total // requirements.stages, 1)
    while low + step < ceiling and not has_partition(cuts, requirements, low + step):
        low, step = low + step + 1, 2 * step
    high = min(ceiling, low + step)
    if not has_partition(cuts, requirements, high):
        return None
    return low + bisect_left(range(low, high), True, key=lambda bound: has_partition(cuts, requirements, bound))
