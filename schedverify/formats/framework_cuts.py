"""The cut of a model in the form that a framework takes, by the framework's name."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from schedverify.core.errors import Fault, InputError, UnknownNameError
from schedverify.core.model import Model
from schedverify.formats.cuts.megatron_flags import megatron_flags
from schedverify.formats.cuts.stage_lists import Layers, deepspeed_parts, torch_split_points, torchtitan_modules
from schedverify.formats.megatron_cuts import megatron_layout

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
        By stage, its rank.

    Raises
    ------
    UnknownNameError
        If there is no such form.
    InputError
        If the framework would refuse the cut, or its form cannot say it.
    """
    if name not in FRAMEWORKS:
        raise UnknownNameError.among("framework", name, FRAMEWORKS)
    deepspeed_parts(model, layers)
    ranks = max(placement) + 1
    if name in _PLACED and list(placement) != [stage % ranks for stage in range(len(layers))]:
        message = f"stages stand on ranks {', '.join(map(str, placement))}"
        raise InputError(Fault("placement", message, "Megatron and DeepSpeed go through the ranks in turn"))
    if name == "deepspeed" and len(layers) != ranks:
        raise InputError(Fault("virtual", f"{len(layers)} stages on {ranks} ranks", "DeepSpeed has one stage a rank"))
    return FRAMEWORKS[name](model, layers, ranks)
