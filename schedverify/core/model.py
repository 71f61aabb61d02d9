"""The values Layer, Model and Devices: what is cut into stages, and what the stages are for."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

from schedverify.core.errors import Fault, InputError
from schedverify.core.problem.stage_graph import Edge, Ints, chain_edges
from schedverify.core.units import Units


@dataclass(frozen=True)
class Layer:
    """One layer, for one micro-batch. Durations are whole ticks, memory whole bytes.

    ``backward`` is the cost of the whole backward; ``backward_input`` and ``backward_weight`` are None where it was
    never measured in two parts.
    """

    name: str
    forward: int = 0
    backward: int = 0
    backward_input: int | None = None
    backward_weight: int | None = None
    activation: int = 0
    """Bytes held from the start of F to the end of B, or of I."""
    weight_stash: int = 0
    """Those of the activation's bytes that are held from the end of I to the end of W."""
    parameters: int = 0
    """Bytes of the weights."""
    state: int = 0
    """Bytes of gradients and of the optimizer's state; held all the time, as the parameters are."""
    output: int = 0
    """Bytes of the tensor that leaves the layer."""
    kind: str = ""
    """What it is to Megatron: ``embedding``, ``decoder``, ``mtp`` or ``loss``; empty where it is none of them."""
    entry: int = 0
    """Those of the activation's bytes that are held only where a stage begins with the layer: its input, where it does
    not need that itself, or a layer before it holds the same tensor as its output."""

    @property
    def work(self) -> int:
        """Ticks of the forward and the whole backward."""
        return self.forward + self.backward

    @property
    def resident(self) -> int:
        """Bytes that are held all the time."""
        return self.parameters + self.state


class TiedWeight(NamedTuple):
    """A weight that several layers have: of its bytes, which each of them counts, a rank holds one set."""

    layers: Ints
    """By position, at least two in rising order."""
    names: tuple[str, ...] = ()
    """The weight's name in each of them, or none."""
    parameters: int = 0
    """Bytes of the weight; a part of each layer's ``parameters``."""
    state: int = 0
    """Bytes of its gradient and of the optimizer's state; a part of each layer's ``state``."""

    @property
    def resident(self) -> int:
        """Bytes that are held all the time."""
        return self.parameters + self.state


@dataclass(frozen=True)
class PartitionConstraints:
    """What a partition must keep to besides the order of the layers; layers by position.

    Attributes
    ----------
    pinned
        Pairs of a layer and the stage that it must be on; a negative stage counts from the last one.
    together
        Groups of layers that no cut may part.
    alone
        Layers that are a stage of their own.
    """

    pinned: tuple[tuple[int, int], ...] = ()
    together: tuple[Ints, ...] = ()
    alone: Ints = ()

    def allow(self, layers: tuple[Ints, ...]) -> bool:
        """Whether a partition keeps to all of them: by stage, the positions of its layers."""
        stage_of = {layer: stage for stage, members in enumerate(layers) for layer in members}
        return (
            all(stage_of[layer] == stage % len(layers) for layer, stage in self.pinned)
            and all(len({stage_of[layer] for layer in group}) == 1 for group in self.together)
            and all(len(layers[stage_of[layer]]) == 1 for layer in self.alone)
        )


@dataclass(frozen=True)
class Devices:
    """The devices that the stages run on, one for each rank. A tuple of one value stands for all ranks.

    Attributes
    ----------
    memory
        Bytes by rank; empty for no limit.
    slowness
        Factor on every duration, by rank, at least 1: a rank of 2 takes twice as long as one of 1.
    latency
        Ticks of pure lag between two ranks.
    bandwidth
        Bytes per tick between two ranks; None for no limit.

    Raises
    ------
    InputError
        If there is no slowness, or a number is too small.
    """

    memory: Ints = ()
    slowness: Ints = (1,)
    latency: int = 0
    bandwidth: int | None = None

    def __post_init__(self) -> None:
        bandwidth = () if self.bandwidth is None else (self.bandwidth,)
        numbers = {"memory": (self.memory, 0), "slowness": (self.slowness, 1), "latency": ((self.latency,), 0),
                   "bandwidth": (bandwidth, 1)}  # fmt: skip
        faults = [
            Fault(f"devices.{name}", f"{value} is too small", f"at least {least}")
            for name, (values, least) in numbers.items()
            for value in values
            if value < least
        ]
        if not self.slowness:
            faults.append(Fault("devices.slowness", "no value", "one for all ranks, or one for each"))
        if faults:
            raise InputError(faults)


@dataclass(frozen=True)
class Model:
    """Layers, and which feeds which.

    Parameters
    ----------
    layers
        In an order in which each stands behind those that feed it.
    edges
        Pairs of positions in ``layers``; a chain where None.
    tied
        Groups of layers that share weights.
    unit
        What bytes are told in, such as ``GiB``; empty where sizes are numbers of no named unit.
    tied_weights
        The weights that groups in ``tied`` share, where they are known.

    Raises
    ------
    InputError
        If there is no layer, a name stands twice, an edge or a tie names no layer or goes backwards, an entry is more
        than its activation, or tied weights are more than what their layers hold.
    """

    name: str
    layers: tuple[Layer, ...]
    tick: str = "tick"
    edges: tuple[Edge, ...] | None = None
    tied: tuple[Ints, ...] = ()
    constraints: PartitionConstraints = field(default_factory=PartitionConstraints)
    devices: Devices = field(default_factory=Devices)
    unit: str = ""
    tied_weights: tuple[TiedWeight, ...] = ()

    def __post_init__(self) -> None:
        if faults := [*_named_twice(self.layers), *self._faults()]:
            raise InputError(faults)

    @property
    def chain(self) -> bool:
        """Whether each layer feeds the next one and no other."""
        return tuple(sorted(self.all_edges)) == chain_edges(len(self.layers))

    @cached_property
    def all_edges(self) -> tuple[Edge, ...]:
        """The edges, those of a chain where none are given."""
        return chain_edges(len(self.layers)) if self.edges is None else self.edges

    @property
    def units(self) -> Units:
        """How times and sizes of this model are told."""
        return Units(self.tick, self.unit)

    @property
    def split(self) -> bool:
        """Whether the backward of every layer is known in its two parts."""
        return all(layer.backward_input is not None and layer.backward_weight is not None for layer in self.layers)

    def _faults(self) -> list[Fault]:
        count = len(self.layers)
        faults = [] if count else [Fault("layer", "the model has no layer", "write [[layer]] and its keys below")]
        for i, layer in enumerate(self.layers):
            if layer.entry > layer.activation:
                message = f"{layer.entry} is more than the activation, of which it is a part"
                faults.append(Fault(f"layer[{i}].entry", message))
        for i, (source, target) in enumerate(self.edges or ()):
            if not 0 <= source < target < count:
                message = f"layer {source} cannot feed layer {target}"
                faults.append(Fault(f"edges[{i}]", message, "an edge goes from a layer to one that stands behind it"))
        for i, weight in enumerate(self.tied_weights):
            if len(weight.layers) < 2 or any(b <= a for a, b in pairwise((-1, *weight.layers, count))):
                hint = "at least two, in rising order"
                faults.append(Fault(f"tied_weights[{i}]", f"layers {list(weight.layers)} cannot share a weight", hint))
        return faults + [fault for name in ("parameters", "state") for fault in self._too_much_tied(name)]

    def _too_much_tied(self, name: str) -> list[Fault]:
        """Return a fault for each layer whose tied weights together have more parameters, or state, than the layer."""
        tied: dict[int, int] = {}
        for weight in self.tied_weights:
            for layer in weight.layers:
                tied[layer] = tied.get(layer, 0) + getattr(weight, name)
        return [
            Fault(f"layer[{i}].{name}", f"its tied weights have {size}, the layer has {getattr(self.layers[i], name)}")
            for i, size in sorted(tied.items())
            if i < len(self.layers) and size > getattr(self.layers[i], name)
        ]


def even_parts(count: int, parts: int) -> tuple[range, ...]:
    """Return contiguous parts of ``count`` positions, equally long; the first ones have one more where need be.

    Raises
    ------
    InputError
        If there are more parts than positions.
    """
    if parts > count:
        raise InputError(Fault("model", f"{count} layers cannot fill {parts} stages", "at least one for each"))
    size, more = divmod(count, parts)
    starts = [part * size + min(part, more) for part in range(parts + 1)]
    return tuple(range(first, last) for first, last in pairwise(starts))


def _named_twice(layers: tuple[Layer, ...]) -> list[Fault]:
    first: dict[str, int] = {}
    faults = []
    for i, layer in enumerate(layers):
        if first.setdefault(layer.name, i) != i:
            message = f"layer {i} is called {layer.name[:60]!r}, and so is layer {first[layer.name]}"
            faults.append(Fault(f"layer[{i}].name", message, "each layer has a name of its own"))
    return faults
