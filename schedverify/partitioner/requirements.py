"""From a model, its ranks and what a schedule keeps in flight to what is asked of each stage."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schedverify.core.errors import Fault, InputError
from schedverify.core.model import Model
from schedverify.partitioner.cuts import Cuts, Numbers

States = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True, eq=False)
class Demands:
    """By stage, what it costs and holds.

    Attributes
    ----------
    slowness
        Factor on the work of the layers, a whole number of at least 1.
    states
        By rank, what is in flight where it is most: for each such moment the micro-batches of each of the rank's
        stages, in rising order.
    capacity
        Bytes of the stage's rank, or None for no limit.
    bandwidth
        Bytes per tick from this stage to the next, or None for no limit.
    allowed
        By stage and cut, whether the stage may end there.
    alone
        Layers that are a stage of their own.
    """

    slowness: tuple[int, ...]
    states: States
    placement: tuple[int, ...]
    capacity: tuple[int, ...] | None
    bandwidth: tuple[int, ...] | None
    allowed: NDArray[np.bool_]
    alone: tuple[int, ...] = ()

    @property
    def stages(self) -> int:
        """How many stages there are."""
        return len(self.slowness)

    def held(self, cuts: Cuts, stage: int) -> Numbers:
        """Return by cut the bytes that the layers before it would take on a stage that is alone on its rank."""
        return cuts.resident + max(state[0] for state in self.states[self.placement[stage]]) * cuts.activation

    def ends(self, cuts: Cuts, stage: int, bound: int) -> NDArray[np.bool_]:
        """Return by cut whether the stage may end there where no rank and no link is busy for more than ``bound``.

        A link carries each tensor twice, forward and as its gradient, in one queue (discipline ``pair``).
        """
        ends: NDArray[np.bool_] = self.allowed[stage]
        if self.bandwidth is not None and stage < self.stages - 1:
            ends = ends & (2 * -(-cuts.crossing // self.bandwidth[stage]) <= bound)
        return ends

    def earliest(self, cuts: Cuts, stage: int, bound: int) -> Numbers:
        """Return by cut the first one at which the stage may begin to end there within ``bound`` ticks of work."""
        return np.searchsorted(cuts.work, cuts.work - bound // self.slowness[stage])


Ints = tuple[int, ...]


def demands_of(model: Model, cuts: Cuts, placement: Ints, ranks: int, states: States) -> Demands:
    """Return the demands on the stages of a partition.

    Parameters
    ----------
    placement
        The rank of each stage.
    states
        See :class:`Demands`.

    Raises
    ------
    InputError
        If the devices have another number of ranks, there are more stages than layers, or a wish names no stage.
    """
    stages, devices = len(placement), model.devices
    faults = [*_wrong_lengths(model, ranks), *_wrong_pins(model, stages)]
    if stages > len(model.layers):
        hint = "give fewer ranks or stages a rank; a stage has at least one layer"
        faults.append(Fault("layer", f"{len(model.layers)} layers cannot fill {stages} stages", hint))
    if faults:
        raise InputError(faults)
    slowness, memory = _each(devices.slowness, ranks), _each(devices.memory, ranks) if devices.memory else None
    bandwidth = None if devices.bandwidth is None else (devices.bandwidth,) * (stages - 1)
    return Demands(
        tuple(slowness[rank] for rank in placement),
        states,
        placement,
        None if memory is None else tuple(memory[rank] for rank in placement),
        bandwidth,
        _allowed(model, cuts, stages),
        model.wishes.alone,
    )


def _allowed(model: Model, cuts: Cuts, stages: int) -> NDArray[np.bool_]:
    """Return by stage and cut whether the stage may end there, as the wishes have it."""
    count = len(model.layers)
    before = cuts.members if cuts.members is not None else np.tri(count + 1, count, -1, dtype=np.bool_)
    allowed = np.ones((stages, len(cuts)), dtype=np.bool_)
    allowed[:-1, -1] = False
    allowed[-1, :-1] = False
    for layer, stage in model.wishes.pinned:
        last = stage % stages
        allowed[:last] &= ~before[:, layer]
        allowed[last:] &= before[:, layer]
    for group in model.wishes.together:
        inside = before[:, list(group)].sum(axis=1)
        allowed &= (inside == 0) | (inside == len(group))
    return allowed


def _wrong_lengths(model: Model, ranks: int) -> Iterator[Fault]:
    for name, values in (("memory", model.devices.memory), ("slowness", model.devices.slowness)):
        if len(values) not in (0, 1, ranks):
            yield Fault(f"devices.{name}", f"{len(values)} values for {ranks} ranks", "one for all, or one for each")


def _wrong_pins(model: Model, stages: int) -> Iterator[Fault]:
    for i, (layer, stage) in enumerate(model.wishes.pinned):
        if not -stages <= stage < stages:
            name = model.layers[layer].name
            hint = f"stages are 0 to {stages - 1}, or -1 for the last"
            yield Fault(f"partition.pinned[{i}]", f"{name} is pinned to stage {stage}", hint)


def _each(values: Ints, ranks: int) -> Ints:
    return values * ranks if len(values) == 1 else values
