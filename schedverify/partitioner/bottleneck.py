"""The best partition of a model into stages: the least bottleneck, and among those the least communication.

Where there is none, :func:`infeasibility_error` says why: constraints that no cut keeps, or the rank that lacks memory,
and how much it lacks.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

from schedverify.core.errors import Fault, InfeasibleError, InputError, UndecidedError
from schedverify.core.model import Model, PartitionConstraints
from schedverify.partitioner.chain_dp import cheapest_partition, has_partition
from schedverify.partitioner.cp_sat import MOST_PAIRED, PartitionModel
from schedverify.partitioner.cuts import MOST_SETS, Cuts, Ints, cuts_of
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


def infeasibility_error(
    model: Model, cuts: Cuts, requirements: StageRequirements, ceiling: int, solver: tuple[float, int] | None
) -> InputError:
    """Return the error that says what is wrong where no partition was found.

    Parameters
    ----------
    ceiling
        Ticks that the busiest rank or link exceeds in no partition.
    solver
        Seconds and threads of the solver, where ranks have several stages.
    """
    if requirements.capacity is None or not has_partition(cuts, replace(requirements, capacity=None), ceiling):
        return InfeasibleError(_constraints_fault(model, cuts, requirements.stages, ceiling))
    if solver is None:
        missing, chosen = _least_missing(cuts, requirements, ceiling)
    elif (found := PartitionModel(cuts, requirements, ceiling, more_memory=True).least_missing(*solver)) is None:
        text = f"no cut into {requirements.stages} stages that fits was found, nor a proof that there is none"
        return UndecidedError(Fault("time_limit", text, "give more time"))
    else:
        missing, chosen = found
    rank, peak, room = max(_peaks(cuts, requirements, chosen), key=lambda entry: entry[1] - entry[2])
    limited = " that keeps the wishes" if model.constraints != PartitionConstraints() else ""
    text = (
        f"no cut into {requirements.stages} stages{limited} fits; it takes {missing} bytes more on every rank: "
        f"the cut that lacks least holds {peak} on rank {rank}, which has {room}"
    )
    hint = "more ranks or memory, smaller micro-batches, recomputation, or a family with fewer of them in flight"
    return InfeasibleError(Fault("devices.memory", text, hint))


def _constraints_fault(model: Model, cuts: Cuts, stages: int, ceiling: int) -> Fault:
    """Return that no cut keeps the constraints, and which single one would have to go."""
    single = " or ".join(_single_obstacles(model, cuts, stages, ceiling))
    hint = f"without {single} there is one" if single else "more than one of them would have to go"
    return Fault("partition", f"no cut into {stages} stages keeps the wishes", hint)


def _single_obstacles(model: Model, cuts: Cuts, stages: int, ceiling: int) -> Iterator[str]:
    """Yield the constraints without one of which there is a partition, as ``pinned[0]``."""
    for kind, constraints in vars(model.constraints).items():
        for i in range(len(constraints)):
            fewer = replace(model.constraints, **{kind: constraints[:i] + constraints[i + 1 :]})
            if has_partition(cuts, _without_memory(replace(model, constraints=fewer), cuts, stages), ceiling):
                yield f"{kind}[{i}]"


def _without_memory(model: Model, cuts: Cuts, stages: int) -> StageRequirements:
    """Return the requirements of equally fast ranks with one stage each and no limit of memory."""
    free = replace(model, devices=replace(model.devices, memory=(), slowness=(1,)))
    return requirements_of(free, cuts, tuple(range(stages)), stages, (((1,),),) * stages)


def _least_missing(cuts: Cuts, requirements: StageRequirements, ceiling: int) -> tuple[int, list[int]]:
    """Return the least bytes that every rank needs more, by bisection, and the cuts that then fit."""
    most = max(int(requirements.prefix_bytes(cuts, stage)[-1]) for stage in range(requirements.stages))
    enough = range(1, most)  # what is searched; the most is enough without a look
    index = bisect_left(
        enough, True, hi=most - 1, key=lambda more: has_partition(cuts, _with_memory(requirements, more), ceiling)
    )
    return index + 1, cheapest_partition(cuts, _with_memory(requirements, index + 1), ceiling)


def _with_memory(requirements: StageRequirements, more: int) -> StageRequirements:
    """Return the requirements with so many bytes more on every rank."""
    return replace(requirements, capacity=tuple(room + more for room in requirements.capacity or ()))


def _peaks(cuts: Cuts, requirements: StageRequirements, chosen: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield each rank with the most bytes that it holds under a partition, and the bytes that it has."""
    parts = list(pairwise(chosen))
    for rank, stages in requirements.stages_by_rank.items():
        own = [parts[stage] for stage in stages]
        resident = sum(int(cuts.resident[end] - cuts.resident[begin]) for begin, end in own)
        activation = [int(cuts.activation[end] - cuts.activation[begin]) for begin, end in own]
        most = max(sum(map(int.__mul__, state, activation)) for state in requirements.states[rank])
        yield rank, resident + most, (requirements.capacity or ())[stages[0]]
