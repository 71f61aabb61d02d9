"""From a decoder's shape, its training and a device to layers with ticks and bytes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from typing import NamedTuple

from schedverify.core.errors import Fault, InfeasibleError, InputError
from schedverify.core.model import Devices, Layer, Model, TiedWeight
from schedverify.core.units import Units
from schedverify.costmodel.decoder import layer_costs
from schedverify.costmodel.decoder.configuration import Decoder, Training
from schedverify.costmodel.decoder.device import DECODER_UNIT, Device
from schedverify.costmodel.decoder.layer_costs import Flops


class _Load(NamedTuple):
    """What a layer asks of its devices, for one micro-batch.

    Attributes
    ----------
    flops
        Operations of all tensor-parallel devices together.
    parameters
        How many parameters a device holds.
    activation
        Bytes that a device saves from F to the end of its B or I.
    stash
        Bytes that a device holds from I to W.
    output
        Bytes that a device sends to the next stage.
    reduced
        Bytes of the tensors that the tensor-parallel devices reduce, by pass.
    weights_read
        Whether a pass reads all weights; of the embedding's table each token reads its own row.
    """

    flops: Flops
    parameters: int
    activation: int
    stash: int
    output: int
    reduced: Flops
    weights_read: bool = True


def decoder_model(shape: Decoder, training: Training, device: Device, *, name: str = "", tick: Fraction) -> Model:
    """Return the layers of a decoder: the embedding, the transformer layers, final norm and output layer as one.

    A pass takes as long as its FLOPs at the device's efficiency, or as its bytes through memory where that is longer,
    and then the all-reduces between the devices that share the layer, inside a node. The pipeline's links are those
    between nodes. With full recomputation the backward has no two parts, as the weight part would need what was given
    up; what one layer needs while it is computed again is taken off the devices' memory.

    Parameters
    ----------
    tick
        The length of a tick in seconds; durations are rounded up to ticks.

    Returns
    -------
    Model
        Durations and bytes are those of each of the ``tensor_parallel`` devices of a rank.

    Raises
    ------
    InputError
        If the shape and the numbers of its training do not go together.

    Source: Narayanan et al. 2021, arXiv 2104.04473, section 3.2 (two all-reduces of a layer in the forward and two in
    the backward); Korthikanti et al. 2022, arXiv 2205.05198, section 4.2.2 (the same bytes with sequence parallelism).
    """
    if faults := list(faults_of(shape, training)):
        raise InputError(faults)
    names = (("embedding", "embedding"), ("decoder", "decoder"), ("head", "loss"))
    embedding, layer, head = (
        _layer(*own, load, training, device, tick) for own, load in zip(names, _loads(shape, training), strict=True)
    )
    layers = (embedding, *(replace(layer, name=f"decoder{i}") for i in range(shape.layers)), head)
    ends, table = (0, shape.layers + 1), shape.table_parameters(training.tensor_parallel)
    weight = TiedWeight(ends, (), table * training.number_bytes, training.state_bytes(table))
    return Model(
        name, layers, _name_of(tick), tied=(ends,) * shape.tied, devices=_devices(shape, training, device, tick),
        unit=DECODER_UNIT, tied_weights=(weight,) * shape.tied,
    )  # fmt: skip


def faults_of(shape: Decoder, training: Training) -> Iterator[Fault]:
    """Yield a fault for all numbers that do not go together: widths, heads and experts, and devices that share them."""
    if shape.hidden % shape.heads and not shape.head_size:
        hint = "give head_size, or other numbers"
        yield Fault("decoder.heads", f"{shape.heads} heads do not divide a width of {shape.hidden}", hint)
    if shape.kv_heads and shape.heads % shape.kv_heads:
        message = f"{shape.kv_heads} heads of keys do not divide {shape.heads} heads"
        yield Fault("decoder.kv_heads", message, "each of them serves equally many")
    if shape.top_k > shape.experts:
        yield Fault("decoder.top_k", f"{shape.top_k} of {shape.experts} experts", "a token goes to some of them")
    split = training.tensor_parallel
    counts = {"heads": shape.heads, "heads of keys": shape.kv_heads or shape.heads, "columns of ffn": shape.ffn_width}
    for what, count in counts.items():
        if count % split:
            hint = "each device has equally many"
            yield Fault("training.tensor_parallel", f"{split} devices do not divide {count} {what}", hint)
    given, least = training.bytes_per_parameter, training.weight_and_optimizer_bytes
    if given and given < least:
        message = f"weight and optimizer alone take {least} bytes, not {given}"
        yield Fault("training.bytes_per_parameter", message, f"0 stands for {least + 4}")


def _loads(shape: Decoder, training: Training) -> tuple[_Load, _Load, _Load]:
    """Return the loads of the embedding, of one transformer layer, and of the final norm with the output layer."""
    split, boundary = training.tensor_parallel, layer_costs.boundary_bytes(shape, training)
    table, reduced = shape.table_parameters(split), training.number_bytes * training.tokens * shape.hidden

    flops, parameters = Flops(0, 0, 0), table + shape.positions * shape.hidden
    mask = layer_costs.embedding_activation(shape, training)
    embedding = _Load(flops, parameters, mask, 0, boundary, Flops(reduced, 0, 0), weights_read=False)

    flops, parameters = layer_costs.layer_flops(shape, training), shape.layer_parameters(split)
    activation, stash = layer_costs.layer_activation(shape, training), layer_costs.layer_stash(shape, training)
    backward = 4 if training.recompute == "full" else 2
    layer = _Load(flops, parameters, activation, stash, boundary, Flops(2 * reduced, backward * reduced, 0))

    flops, parameters = layer_costs.head_flops(shape, training), table + shape.norm_parameters
    activation, stash = layer_costs.head_activation(shape, training), layer_costs.head_stash(shape, training)
    return embedding, layer, _Load(flops, parameters, activation, stash, 0, Flops(0, reduced, 0))


def _layer(name: str, kind: str, load: _Load, training: Training, device: Device, tick: Fraction) -> Layer:
    """Return a layer with the ticks of each pass and the bytes of one device."""
    seconds = [
        device.seconds(Fraction(flops, training.tensor_parallel), moved)
        + device.inside.ring(reduced, training.tensor_parallel) * (reduced > 0)
        for flops, moved, reduced in zip(load.flops, _moved(load, training), load.reduced, strict=True)
    ]
    forward, backward_input, backward_weight = (-(-value // tick) for value in seconds)
    weights, state = load.parameters * training.number_bytes, training.state_bytes(load.parameters)
    split = training.recompute != "full"
    parts: tuple[int | None, int | None] = (backward_input, backward_weight) if split else (None, None)
    stash = min(load.stash, load.activation) if split else 0
    costs = (forward, backward_input + backward_weight, *parts)
    return Layer(name, *costs, load.activation, stash, weights, state, load.output, kind)


def _moved(load: _Load, training: Training) -> tuple[int, int, int]:
    """Return the bytes that F, I and W move through a device's memory.

    F and I read the weights and move the saved activations and the output; W reads what it held and adds to the
    gradients, which are read and written.
    """
    if not load.weights_read:  # a table: each token reads its row, and later adds to that row's gradient
        rows = load.output * training.tensor_parallel
        return 2 * rows, 0, rows + 2 * rows // training.number_bytes * training.gradient_bytes
    weights = load.parameters * training.number_bytes
    gradients = load.parameters * training.gradient_bytes
    passing = weights + load.activation + load.output
    return passing, passing, load.stash + 2 * gradients


def _devices(shape: Decoder, training: Training, device: Device, tick: Fraction) -> Devices:
    """Return the memory in bytes, and of the links between nodes latency in ticks and bandwidth in bytes per tick."""
    memory = (_room(shape, training, device),) if device.memory else ()
    latency, bandwidth = -(-device.between.latency // tick), device.between.bandwidth
    per_tick = None if bandwidth is None else max(int(bandwidth * tick), 1)
    return Devices(memory=memory, latency=latency, bandwidth=per_tick)


def _room(shape: Decoder, training: Training, device: Device) -> int:
    """Return the bytes of a device that layers can take: without reserves, and what one layer needs when recomputed."""
    again = layer_costs.saved_activation(shape, training) if training.recompute == "full" else 0
    room = device.memory - device.reserved - again
    if room <= 0:
        size = Units("", DECODER_UNIT).size
        message = f"{size(device.memory)}, of which {size(device.reserved + again)} hold no layer"
        raise InfeasibleError(
            Fault("device.memory", message, "reserved, and what a layer needs while it is recomputed")
        )
    return room


def _name_of(tick: Fraction) -> str:
    """Return a tick as files write it: ``us``, ``0.1 us``."""
    microseconds = tick * 1_000_000
    for unit, length in (("s", 10**6), ("ms", 10**3), ("us", 1)):
        if microseconds == length:
            return unit
    return f"{float(microseconds):g} us" if microseconds != Fraction(1, 1000) else "ns"
