"""The cut of a model in the form that a framework takes, by the framework's name.

Megatron has a module of its own; the split points of torch, the module lists of torchtitan and the bounds of DeepSpeed
are made below.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import chain, count
from typing import Any, Final

from schedverify.core.errors import Fault, InputError, look_up
from schedverify.core.model import Layer, Model
from schedverify.formats.megatron_cuts import megatron_flags, megatron_layout

_TITAN: Final = {"embedding": ["tok_embeddings"], "decoder": [], "loss": ["norm", "lm_head"]}
"""The modules of torchtitan that a layer of each kind is made of, by kind; decoder layers are numbered."""
Layers = Sequence[Sequence[int]]


def deepspeed_parts(model: Model, layers: Layers) -> list[int]:
    """Return the position of each stage's first layer, and the number of layers: DeepSpeed calls them ``parts``.

    Parameters
    ----------
    layers
        By stage, the positions of its layers.

    Raises
    ------
    InputError
        If a stage is no run of layers that follow each other, as the stages of a graph may be.
    """
    found, expected = [0], 0
    for stage, members in enumerate(layers):
        if list(members) != list(range(expected, expected + len(members))):
            message = f"the layers of stage {stage} do not follow each other in the model's order"
            raise InputError(Fault(f"partition[{stage}]", message, "the graph was cut freely; this form cuts a chain"))
        expected += len(members)
        found.append(expected)
    if expected != len(model.layers):
        raise InputError(Fault("partition", f"{expected} layers are in the stages, the model has {len(model.layers)}"))
    return found


def torch_split_points(model: Model, layers: Layers) -> list[str]:
    """Return the name of the first layer of each stage, without that of the first stage.

    With ``SplitPoint.BEGINNING`` for each they are the ``split_spec`` of PyTorch's ``pipeline()``;
    layers must be called as the submodules of the model are. Raises as :func:`deepspeed_parts`.
    """
    return [model.layers[start].name for start in deepspeed_parts(model, layers)[1:-1]]


def torchtitan_modules(model: Model, layers: Layers) -> list[list[str]]:
    """Return the modules of each stage: ``module_fqns_per_model_part`` of torchtitan.

    Where each layer is an embedding, a decoder layer or the loss, these are torchtitan's names for its own models
    (``tok_embeddings``, ``layers.0``, ``norm`` and ``lm_head``), else the names of the layers.

    Source: pytorch/torchtitan 0.3.0, ``torchtitan/distributed/pipeline_parallel.py``; until then ``lm_head`` was called
    ``output``.
    """
    decoders = count()
    named = all(layer.kind in _TITAN for layer in model.layers)
    names = [_titan(layer, decoders) if named else [layer.name] for layer in model.layers]
    return [list(chain.from_iterable(names[i] for i in members)) for members in layers]


def _titan(layer: Layer, decoders: Iterator[int]) -> list[str]:
    return _TITAN[layer.kind] or [f"layers.{next(decoders)}"]


FRAMEWORKS: Final[dict[str, Callable[[Model, Layers, int], Any]]] = {
    "megatron-layout": megatron_layout,
    "megatron-flags": lambda model, layers, ranks: " ".join(megatron_flags(model, layers, ranks)),
    "torch": lambda model, layers, _: torch_split_points(model, layers),
    "torchtitan": lambda model, layers, _: torchtitan_modules(model, layers),
    "deepspeed": lambda model, layers, _: deepspeed_parts(model, layers),
}
_PLACED: Final = ("megatron-layout", "megatron-flags", "deepspeed")


def for_framework(name: str, model: Model, layers: Layers, placement: Sequence[int]) -> Any:
    """Return the cut of a model as a framework takes it: text, or a list of names, of numbers or of lists.

    Parameters
    ----------
    name
        ``megatron-layout``, ``megatron-flags``, ``torch`` (split points), ``torchtitan`` (modules of each stage) or
        ``deepspeed`` (where each stage begins, and the end).
    layers
        By stage, the positions of its layers.
    placement
        The rank of each stage.

    Raises
    ------
    UnknownNameError
        If there is no such form.
    InputError
        If the framework would refuse the cut, or its form cannot say it.
    """
    make = look_up("framework", name, FRAMEWORKS)
    deepspeed_parts(model, layers)
    ranks = max(placement) + 1
    if name in _PLACED and list(placement) != [stage % ranks for stage in range(len(layers))]:
        message = f"stages stand on ranks {', '.join(map(str, placement))}"
        raise InputError(Fault("placement", message, "Megatron and DeepSpeed go through the ranks in turn"))
    if name == "deepspeed" and len(layers) != ranks:
        raise InputError(Fault("virtual", f"{len(layers)} stages on {ranks} ranks", "DeepSpeed has one stage a rank"))
    return make(model, layers, ranks)
