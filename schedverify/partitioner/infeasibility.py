"""Why there is no partition: wishes that no cut keeps, or the rank that lacks memory, and how much it lacks."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import pairwise

from schedverify.core.errors import Fault, InfeasibleError, InputError, UndecidedError
from schedverify.core.model import Model, PartitionConstraints
from schedverify.partitioner.cp_sat import ByRank
from schedverify.partitioner.cuts import Cuts
from schedverify.partitioner.exact import can_end, least_crossing
from schedverify.partitioner.requirements import Demands, demands_of

Ints = tuple[int, ...]


def why_none(model: Model, cuts: Cuts, demands: Demands, ceiling: int, solver: tuple[float, int] | None) -> InputError:
    """Return what is wrong where no partition was found.

    Parameters
    ----------
    ceiling
        A bound on the busiest rank or link that every partition keeps.
    solver
        Seconds and threads of the solver, where ranks have several stages.
    """
    if demands.capacity is None or not can_end(cuts, replace(demands, capacity=None), ceiling):
        return InfeasibleError(_wishes_fault(model, cuts, demands.stages, ceiling))
    if solver is None:
        lacking, chosen = _least_lacking(cuts, demands, ceiling)
    elif (found := ByRank(cuts, demands, ceiling, lacking=True).least_lacking(*solver)) is None:
        text = f"no cut into {demands.stages} stages that fits was found, nor a proof that there is none"
        return UndecidedError(Fault("time_limit", text, "give more time"))
    else:
        lacking, chosen = found
    rank, held, room = max(_held(cuts, demands, chosen), key=lambda one: one[1] - one[2])
    kept = " that keeps the wishes" if model.wishes != PartitionConstraints() else ""
    text = (
        f"no cut into {demands.stages} stages{kept} fits; it takes {lacking} bytes more on every rank: the cut that "
        f"lacks least holds {held} on rank {rank}, which has {room}"
    )
    hint = "more ranks or memory, smaller micro-batches, recomputation, or a family with fewer of them in flight"
    return InfeasibleError(Fault("devices.memory", text, hint))


def _wishes_fault(model: Model, cuts: Cuts, stages: int, ceiling: int) -> Fault:
    """Return that no cut keeps the wishes, and which single one would have to go."""
    single = " or ".join(_in_the_way(model, cuts, stages, ceiling))
    hint = f"without {single} there is one" if single else "more than one of them would have to go"
    return Fault("partition", f"no cut into {stages} stages keeps the wishes", hint)


def _in_the_way(model: Model, cuts: Cuts, stages: int, ceiling: int) -> Iterator[str]:
    """Yield the wishes without one of which there is a cut."""
    for kind, wishes in vars(model.wishes).items():
        for i in range(len(wishes)):
            without = replace(model, wishes=replace(model.wishes, **{kind: wishes[:i] + wishes[i + 1 :]}))
            if can_end(cuts, _free(without, cuts, stages), ceiling):
                yield f"{kind}[{i}]"


def _free(model: Model, cuts: Cuts, stages: int) -> Demands:
    """Return the demands of ranks with one stage each and no limit of memory."""
    free = replace(model, devices=replace(model.devices, memory=(), slowness=(1,)))
    return demands_of(free, cuts, tuple(range(stages)), stages, (((1,),),) * stages)


def _least_lacking(cuts: Cuts, demands: Demands, ceiling: int) -> tuple[int, list[int]]:
    """Return the least bytes that every rank needs more, by bisection, and the cuts that then fit."""
    low, high = 1, max(int(demands.held(cuts, stage)[-1]) for stage in range(demands.stages))
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if can_end(cuts, _roomier(demands, middle), ceiling) else (middle + 1, high)
    return low, least_crossing(cuts, _roomier(demands, low), ceiling)


def _roomier(demands: Demands, more: int) -> Demands:
    return replace(demands, capacity=tuple(room + more for room in demands.capacity or ()))


def _held(cuts: Cuts, demands: Demands, chosen: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield each rank with the most bytes that it holds and those that it has."""
    parts = list(pairwise(chosen))
    for rank in sorted(set(demands.placement)):
        own = [parts[stage] for stage, home in enumerate(demands.placement) if home == rank]
        resident = sum(int(cuts.resident[end] - cuts.resident[begin]) for begin, end in own)
        kept = [int(cuts.activation[end] - cuts.activation[begin]) for begin, end in own]
        most = max(sum(map(int.__mul__, state, kept)) for state in demands.states[rank])
        yield rank, resident + most, (demands.capacity or ())[demands.placement.index(rank)]
