"""What is asked of each stage of a partition: how slow its rank is, what fits there, and which cuts may end it.

:func:`requirements_of` makes it of a model, its ranks, and what a schedule keeps in flight.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schedverify.core.errors import Fault, InputError
from schedverify.core.model import Model, TiedWeight
from schedverify.partitioner.account import Moments
from schedverify.partitioner.cuts import Cuts, Ints, Numbers
from schedverify.partitioner.sums import MOST


@dataclass(frozen=True, eq=False)
class StageRequirements:
    """By stage, what it costs and holds.

    Attributes
    ----------
    slowness
        Factor on the work of the layers, a whole number of at least 1.
    moments
        By rank, what it holds when that is most.
    placement
        The stage's rank.
    capacity
        Bytes of the stage's rank, or None for no limit.
    bandwidth
        Bytes per tick between two ranks, or None for no limit.
    allowed
        Whether the stage may end at a cut as far as the constraints go, shape (stages, cuts).
    alone
        Layers that are a stage of their own.
    tied
        The weights that several layers have, of which a rank holds one set.
    """

    slowness: Ints
    moments: Moments
    placement: Ints
    capacity: Ints | None
    bandwidth: int | None
    allowed: NDArray[np.bool_]
    alone: Ints = ()
    tied: tuple[TiedWeight, ...] = ()

    @property
    def stages(self) -> int:
        """How many stages there are."""
        return len(self.slowness)

    @property
    def stages_by_rank(self) -> dict[int, list[int]]:
        """The stages of each rank that has any, in rising order of ranks and stages."""
        return {
            rank: [stage for stage, owner in enumerate(self.placement) if owner == rank]
            for rank in sorted(set(self.placement))
        }

    def moments_of_stage(self, stage: int) -> list[tuple[int, int]]:
        """Return in flight and waiting, at the moments when a stage that is alone on its rank holds most."""
        return [(moment.in_flight[0], moment.waiting[0]) for moment in self.moments[self.placement[stage]]]

    def may_end(self, cuts: Cuts, stage: int, bound: int) -> NDArray[np.bool_]:
        """Return whether the stage may end at each cut with no link busy for over ``bound`` ticks, shape (cuts,).

        A link carries each tensor twice, forward and as its gradient, in one queue (discipline ``pair``). Where every
        rank has one stage, each boundary has a queue of its own.
        """
        ends: NDArray[np.bool_] = self.allowed[stage]
        if self.bandwidth is not None and stage < self.stages - 1:
            ends = ends & (2 * -(-cuts.crossing // self.bandwidth) <= bound)
        return ends

    def latest_end(self, cuts: Cuts, stage: int, bound: int) -> Numbers:
        """Return by begin the last cut at which the stage may end within ``bound`` ticks of work, shape (cuts,)."""
        return np.searchsorted(cuts.work, cuts.work + bound // self.slowness[stage], side="right") - 1

    def bytes_from(self, cuts: Cuts, stage: int, begin: int) -> Numbers:
        """Return by end the most bytes on the rank of a stage that begins at a cut, alone there, shape (cuts,)."""
        active, stash = cuts.activation_from(begin), cuts.stash - cuts.stash[begin]
        held = [count * active + waiting * stash for count, waiting in self.moments_of_stage(stage)]
        resident = cuts.resident - cuts.resident[begin]
        for weight in self.tied:
            before = cuts.count_before(weight.layers)
            resident = resident - weight.resident * np.maximum(before - before[begin] - 1, 0)
        return np.asarray(resident + np.max(held, axis=0, initial=0))


def requirements_of(model: Model, cuts: Cuts, placement: Ints, moments: Moments) -> StageRequirements:
    """Return what a model, its ranks and what they hold ask of the stages.

    Parameters
    ----------
    placement
        The rank of each stage.
    moments
        By rank, what it holds when that is most; one for each rank, also for one that has no stage.

    Raises
    ------
    InputError
        If the devices have another number of ranks, there are more stages than layers, or a constraint names no stage.
    """
    stages, devices = len(placement), model.devices
    faults = [*_wrong_lengths(model, len(moments)), *_wrong_pins(model, stages)]
    if stages > len(model.layers):
        hint = "give fewer ranks or stages a rank; a stage has at least one layer"
        faults.append(Fault("layer", f"{len(model.layers)} layers cannot fill {stages} stages", hint))
    if faults:
        raise InputError(faults)
    slowness = _by_stage(devices.slowness, placement)
    capacity = tuple(min(room, MOST) for room in _by_stage(devices.memory, placement)) if devices.memory else None
    allowed = _allowed(model, cuts, stages)
    return StageRequirements(
        slowness, moments, placement, capacity, devices.bandwidth, allowed, model.constraints.alone, model.tied_weights
    )


def _allowed(model: Model, cuts: Cuts, stages: int) -> NDArray[np.bool_]:
    """Return whether each stage may end at each cut under the model's constraints, shape (stages, cuts).

    A layer pinned to stage ``p`` stands behind the end of every stage before ``p``, and before that of all others::

                       cuts without the layer   cuts with it
        stages < p              yes                  no
        stages >= p             no                   yes
    """
    allowed = np.ones((stages, len(cuts)), dtype=np.bool_)
    allowed[:-1, -1] = False  # only the last stage ends behind all layers
    allowed[-1, :-1] = False
    for layer, stage in model.constraints.pinned:
        pinned, before = stage % stages, _before(cuts, layer)
        allowed[:pinned] &= ~before
        allowed[pinned:] &= before
    for group in model.constraints.together:
        inside = np.sum([_before(cuts, layer) for layer in set(group)], axis=0)
        allowed &= (inside == 0) | (inside == len(set(group)))
    return allowed


def _before(cuts: Cuts, layer: int) -> NDArray[np.bool_]:
    """Return whether a layer stands before each cut, shape (cuts,)."""
    return np.arange(len(cuts)) > layer if cuts.members is None else cuts.members[:, layer]


def _wrong_lengths(model: Model, ranks: int) -> Iterator[Fault]:
    for name, values in (("memory", model.devices.memory), ("slowness", model.devices.slowness)):
        if len(values) not in (0, 1, ranks):
            yield Fault(f"devices.{name}", f"{len(values)} values for {ranks} ranks", "one for all, or one for each")


def _wrong_pins(model: Model, stages: int) -> Iterator[Fault]:
    for i, (layer, stage) in enumerate(model.constraints.pinned):
        if not -stages <= stage < stages:
            name = model.layers[layer].name
            hint = f"stages are 0 to {stages - 1}, or -1 for the last"
            yield Fault(f"partition.pinned[{i}]", f"{name} is pinned to stage {stage}", hint)


def _by_stage(values: Ints, placement: Ints) -> Ints:
    """Return by stage the value of its rank; one value alone is that of all ranks."""
    return tuple(values[rank % len(values)] for rank in placement)
