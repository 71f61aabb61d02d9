"""Whether a model is within what the searches can do: its sums can be counted, and the work ends in seconds."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

from schedverify.core.errors import Fault, UnsupportedError
from schedverify.core.model import Layer, Model

MOST: Final = 1 << 60
"""The most ticks, and bytes, that all stages and micro-batches together may come to."""
MOST_WORK: Final = 1 << 21
"""The most layers times stages of a search, and the most operations of the schedule that a cut is timed with."""
_TIMES: Final = ("forward", "backward", "backward_input", "backward_weight")
_SIZES: Final = ("activation", "parameters", "state", "output")


def check_sums(model: Model, stages: int = 1, microbatches: int = 1, *, key: str = "layer") -> None:
    """Check that whatever a partition of a model into so many stages comes to can be counted.

    Parameters
    ----------
    key
        Where the numbers come from, for the message.

    Raises
    ------
    UnsupportedError
        If all steps or all bytes of so many micro-batches add up to more than 2^60.
    """
    if faults := list(faults_of_sums(model, lambda _, __: key, stages, microbatches)):
        raise UnsupportedError(faults)


def check_work(model: Model, stages: int, microbatches: int) -> None:
    """Check that a model is cut into so many stages, and timed with so many micro-batches, in a matter of seconds.

    Raises
    ------
    UnsupportedError
        If layers times stages, or the operations of a schedule, are more than :data:`MOST_WORK`.
    """
    layers, operations = len(model.layers), 2 * stages * microbatches
    if layers * stages > MOST_WORK:
        message = f"{layers} layers for {stages} stages are {layers * stages} places for a cut, at most {MOST_WORK}"
        raise UnsupportedError(Fault("layer", message, "take several layers as one (a smaller repeat)"))
    if operations > MOST_WORK:
        message = f"{microbatches} micro-batches through {stages} stages make {operations} operations"
        raise UnsupportedError(Fault("microbatches", f"{message}, at most {MOST_WORK}", "cut for fewer micro-batches"))


def faults_of_sums(
    model: Model, key_of: Callable[[int, str], str], stages: int = 1, microbatches: int = 1
) -> Iterator[Fault]:
    """Yield a fault for ticks and one for bytes, where they add up to too much.

    Parameters
    ----------
    key_of
        Called with the position of the layer that has the largest of the numbers, and which of them that is: returns
        the key where it stands.
    """
    layers, devices, links = model.layers, model.devices, 2 * (stages - 1)
    times = f" in {microbatches} micro-batches" if microbatches > 1 else ""
    slowness = max(devices.slowness)
    ticks, sent = slowness * sum(map(_ticks, layers)), sum(layer.output for layer in layers)
    lags = links * (devices.latency + (0 if devices.bandwidth is None else -(-sent // devices.bandwidth)))
    if microbatches * ticks > MOST:
        times += f" on a rank of slowness {slowness}" if slowness > 1 else ""
        position, name = _largest(layers, _TIMES)
        message = f"all steps together take more than 2^60 ticks{times}, most of them {layers[position].name!r}"
        yield Fault(key_of(position, name), message, "use a coarser tick")
    elif microbatches * (ticks + lags) > MOST:
        message = f"all steps and transfers together take more than 2^60 ticks{times}"
        yield Fault("devices.latency" if devices.latency else "devices.bandwidth", message, "use a coarser tick")
    kept = sum(layer.resident for layer in layers)
    if kept + microbatches * (sum(layer.activation for layer in layers) + max(links, 1) * sent) > MOST:
        position, name = _largest(layers, _SIZES)
        message = (
            f"all layers together hold and send more than 2^60 bytes{times}, most of them {layers[position].name!r}"
        )
        yield Fault(key_of(position, name), message, "use a coarser unit for every size")


def _ticks(layer: Layer) -> int:
    """Return the ticks of F and of the backward, whole or in its two parts, whichever takes longer."""
    return layer.forward + max(layer.backward, (layer.backward_input or 0) + (layer.backward_weight or 0))


def _largest(layers: tuple[Layer, ...], names: tuple[str, ...]) -> tuple[int, str]:
    """Return the position of the layer that has the largest value, and the value's name."""
    position = max(range(len(layers)), key=lambda i: max(getattr(layers[i], name) or 0 for name in names))
    return position, max(names, key=lambda name: getattr(layers[position], name) or 0)
