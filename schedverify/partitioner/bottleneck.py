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

from schedverify.core.ending import Check, OverError
from schedverify.core.errors import Fault, InfeasibleError, InputError, UndecidedError
from schedverify.core.model import Model, PartitionConstraints, even_parts
from schedverify.optimizer.effort import Effort
from schedverify.partitioner.account import (
    Ints,
    Layers,
    Moments,
    lacking,
    link_ticks,
    one_of_each,
    peaks_of,
    queues_of,
    usage_of,
)
from schedverify.partitioner.chain_dp import cheapest_partition, has_partition
from schedverify.partitioner.cp_sat import PartitionModel
from schedverify.partitioner.cuts import Cuts, cuts_of
from schedverify.partitioner.requirements import StageRequirements, requirements_of
from schedverify.partitioner.sums import MOST


class Partition(NamedTuple):
    """A partition of a model into stages: which layers each stage has, and what that comes to.

    Attributes
    ----------
    layers
        By stage, the positions of its layers in the model.
    bottleneck
        Ticks that the busiest rank or link takes for one micro-batch; of a rank, forward and whole backward; of a
        link, all that goes through the queue of its two ranks.
    crossing
        Bytes that go from rank to rank in one micro-batch's forward.
    linearized
        Whether a graph was cut as a chain in the order of its layers, because it has too many ways to be cut.
    proved
        Whether no partition (where linearized, of that chain) has a lower bottleneck; False where that is open.
    """

    layers: Layers
    bottleneck: int
    crossing: int
    linearized: bool = False
    proved: bool = True


def least_bottleneck(
    model: Model,
    placement: Ints,
    moments: Moments,
    *,
    effort: Effort | None = None,
    solver: bool = False,
) -> Partition:
    """Return the partition with the least bottleneck, and among those with the fewest bytes between ranks.

    Exact over all nested down-sets of the layers' graph: the bottleneck by bisection, each candidate decided by
    dynamic programming over (stage, cut). With several stages on a rank, whose loads add up, CP-SAT decides, and the
    largest stage counts before the bytes. Where the means are used up before a partition is found, it is the one with
    as many layers on each stage, if that fits.

    Parameters
    ----------
    placement
        The rank of each stage.
    moments
        By rank, what it holds when that is most, which must fit its memory.
    effort
        The means; 20 seconds and 2 threads by default.
    solver
        Whether CP-SAT decides even where every rank has one stage.

    Raises
    ------
    InputError
        If the numbers of ranks, stages and layers do not go together.
    InfeasibleError
        If no partition fits memory and constraints; says which constraint, or how much memory is lacking where.
    UndecidedError
        If no partition was found with these means, nor a proof that there is none.
    """
    cuts, effort = cuts_of(model), effort or Effort(20, workers=2)
    requirements = requirements_of(model, cuts, placement, moments)
    several = solver or len(set(placement)) < len(placement)
    try:
        found, proved = (_by_solver if several else _by_stages)(model, cuts, requirements, effort)
        if found is None and not effort.over:
            raise infeasibility_error(model, cuts, requirements, effort if several else None)
    except OverError:
        found = None
    if found is None:
        found, proved = _even_that_fits(model, requirements), False
    if found is None:
        raise _undecided(requirements)
    usage = usage_of(model, found, placement)
    return Partition(found, usage.bottleneck, usage.crossing, cuts.linearized, proved)


def _by_solver(model: Model, cuts: Cuts, requirements: StageRequirements, effort: Effort) -> tuple[Layers | None, bool]:
    """Return the best partition that CP-SAT finds, and whether it is proved; None where it finds none."""
    ceiling = _ceiling(model, cuts, requirements.placement)
    return PartitionModel(model, cuts, requirements, ceiling, effort=effort).solve() or (None, False)


def _by_stages(model: Model, cuts: Cuts, requirements: StageRequirements, effort: Effort) -> tuple[Layers | None, bool]:
    """Return the best partition where every rank has one stage, by dynamic programming; None where there is none."""
    bottleneck = _bisect(cuts, requirements, _ceiling(model, cuts, requirements.placement), effort.check)
    if bottleneck is None:
        return None, True
    return _layers(cuts, cheapest_partition(cuts, requirements, bottleneck, effort.check)), True


def _even_that_fits(model: Model, requirements: StageRequirements) -> Layers | None:
    """Return the partition with as many layers on each stage; None where it breaks a wish or does not fit."""
    layers = tuple(map(tuple, even_parts(len(model.layers), requirements.stages)))
    peaks = peaks_of(model, layers, requirements.placement, requirements.moments)
    fits = model.constraints.allow(layers) and not lacking(peaks, model.devices.memory)
    return layers if fits else None


def _undecided(requirements: StageRequirements) -> UndecidedError:
    text = f"no cut into {requirements.stages} stages that fits was found, nor a proof that there is none"
    return UndecidedError(Fault("time_limit", text, "give more time"))


def _ceiling(model: Model, cuts: Cuts, placement: Ints) -> int:
    """Return ticks that neither rank nor link exceeds in any partition: all work on one rank, all bytes over each."""
    shared = max(map(len, queues_of(placement).values()), default=0)
    work, most_sent = int(cuts.work[-1]), sum([layer.output for layer in model.layers])
    return max(work * max(model.devices.slowness), shared * link_ticks(most_sent, model.devices.bandwidth))


def _layers(cuts: Cuts, chosen: list[int]) -> Layers:
    return tuple(cuts.layers_between(first, last) for first, last in pairwise(chosen))


def _bisect(cuts: Cuts, requirements: StageRequirements, ceiling: int, check: Check) -> int | None:
    """Return the least bottleneck of any partition, or None where memory and constraints leave none."""

    def fits(bound: int) -> bool:
        return has_partition(cuts, requirements, bound, check)

    total = int(cuts.work[-1])
    low = total * min(requirements.slowness) // requirements.stages
    step = max(total // requirements.stages, 1)
    while low + step < ceiling and not fits(low + step):
        low, step = low + step + 1, 2 * step
    high = min(ceiling, low + step)
    if not fits(high):
        return None
    return low + bisect_left(range(low, high), True, key=fits)


def infeasibility_error(model: Model, cuts: Cuts, requirements: StageRequirements, solver: Effort | None) -> InputError:
    """Return the error that says what is wrong where no partition was found.

    Parameters
    ----------
    solver
        The means of the solver, where ranks have several stages.
    """
    free = requirements_of(_without_memory(model), cuts, requirements.placement, requirements.moments)
    if not has_partition(cuts, free, MOST):
        return InfeasibleError(_constraints_fault(model, cuts, requirements.stages))
    chosen = nearest_partition(model, cuts, requirements, solver)
    if chosen is None:
        return _undecided(requirements)
    return memory_error(
        model, requirements.stages, peaks_of(model, chosen, requirements.placement, requirements.moments)
    )


def nearest_partition(
    model: Model, cuts: Cuts, requirements: StageRequirements, solver: Effort | None
) -> Layers | None:
    """Return the partition for which every rank needs the fewest bytes more, where none fits.

    None where the solver's time was up before that was proved, or where one fits.

    Parameters
    ----------
    solver
        Its means; None where it is not needed, as every rank has one stage.
    """
    ceiling = _ceiling(model, cuts, requirements.placement)
    if solver is None:
        return _least_missing(cuts, requirements, ceiling)
    chosen = PartitionModel(model, cuts, requirements, ceiling, more_memory=True, effort=solver).least_missing()
    if chosen is None:
        return None
    peaks = peaks_of(model, chosen, requirements.placement, requirements.moments)
    return chosen if lacking(peaks, model.devices.memory) else None


def memory_error(model: Model, stages: int, peaks: list[int]) -> InfeasibleError:
    """Return the error that says what is lacking where no cut fits.

    Parameters
    ----------
    peaks
        By rank, the bytes that the cut holds which lacks least.
    """
    memory = model.devices.memory
    rooms = [memory[rank % len(memory)] for rank in range(len(peaks))]
    rank = max(range(len(peaks)), key=lambda rank: peaks[rank] - rooms[rank])
    missing = model.units.exact(lacking(peaks, memory))
    limited = " that keeps the wishes" if model.constraints != PartitionConstraints() else ""
    text = (
        f"no cut into {stages} stages{limited} fits; it takes {missing} more on every rank: "
        f"the cut that lacks least holds {model.units.over(peaks[rank], rooms[rank])}, on rank {rank}"
    )
    hint = "more ranks or memory, smaller micro-batches, recomputation, or a family with fewer of them in flight"
    return InfeasibleError(Fault("devices.memory", text, hint))


def _constraints_fault(model: Model, cuts: Cuts, stages: int) -> Fault:
    """Return that no cut keeps the constraints, and which single one would have to go."""
    single = " or ".join(_single_obstacles(model, cuts, stages))
    hint = f"without {single} there is one" if single else "more than one of them would have to go"
    return Fault("partition", f"no cut into {stages} stages keeps the wishes", hint)


def _single_obstacles(model: Model, cuts: Cuts, stages: int) -> Iterator[str]:
    """Yield the constraints without one of which there is a partition, as ``pinned[0]``."""
    for kind, constraints in vars(model.constraints).items():
        for i in range(len(constraints)):
            fewer = replace(model.constraints, **{kind: constraints[:i] + constraints[i + 1 :]})
            changed = _without_memory(replace(model, constraints=fewer))
            placement = tuple(range(stages))
            if has_partition(cuts, requirements_of(changed, cuts, placement, one_of_each(placement, stages)), MOST):
                yield f"{kind}[{i}]"


def _without_memory(model: Model) -> Model:
    """Return the model on equally fast ranks with no limit of memory, whose links take no time."""
    return replace(model, devices=replace(model.devices, memory=(), slowness=(1,), bandwidth=None))


def _least_missing(cuts: Cuts, requirements: StageRequirements, ceiling: int) -> Layers:
    """Return the partition for which every rank needs the fewest bytes more, by bisection."""
    active, stash = int(cuts.activation[-1] + cuts.entry.sum()), int(cuts.stash[-1])
    moments = [moment for stage in range(requirements.stages) for moment in requirements.moments_of_stage(stage)]
    most = int(cuts.resident[-1]) + max(count * active + waiting * stash for count, waiting in moments)
    enough = range(1, max(most, 1))  # what is searched; the most is enough without a look
    index = bisect_left(enough, True, key=lambda more: has_partition(cuts, _with_memory(requirements, more), ceiling))
    return _layers(cuts, cheapest_partition(cuts, _with_memory(requirements, index + 1), ceiling))


def _with_memory(requirements: StageRequirements, more: int) -> StageRequirements:
    """Return the requirements with so many bytes more on every rank."""
    return replace(requirements, capacity=tuple(room + more for room in requirements.capacity or ()))
