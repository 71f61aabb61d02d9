"""What frameworks take as the cut of a chain: split points of torch, torchtitan's module lists, DeepSpeed's bounds."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain, count
from typing import Final

from schedverify.core.errors import Fault, InputError
from schedverify.core.model import Layer, Model

_TITAN: Final = ("embedding", "decoder", "loss")
Layers = Sequence[Sequence[int]]


def deepspeed_parts(model: Model, layers: Layers) -> list[int]:
    """Return where each stage begins in the list of layers, and the end: ``parts`` of DeepSpeed's ``PipelineModule``.

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
    """Return the names of the layers that a stage begins with, but for the first stage.

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
    return {"embedding": ["tok_embeddings"], "loss": ["norm", "lm_head"]}.get(layer.kind) or [
        f"layers.{next(decoders)}"
    ]
