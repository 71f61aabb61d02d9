"""Megatron's layout string (``--pipeline-model-parallel-layout``): stages by bars, layers by letters, written short.

``E`` is the embedding, ``t`` a decoder layer, ``m`` a multi-token-prediction layer, ``L`` the loss with the output
layer. ``x*n`` and ``(...)*n`` repeat; commas say nothing. Stages stand in the order of the model, which is that of
Megatron: stage ``s`` is on rank ``s mod P``.

Source: NVIDIA/Megatron-LM, ``megatron/core/transformer/pipeline_parallel_layer_layout.py`` (what it takes and refuses).
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import groupby
from typing import Final

from schedverify.core.errors import Fault, InputError
from schedverify.core.model import Model

LETTERS: Final = {"embedding": "E", "decoder": "t", "mtp": "m", "loss": "L"}
_REPEATED: Final = (re.compile(r"\(([^()]+)\)\*([0-9]{1,4})"), re.compile(r"(.)\*([0-9]{1,4})"))


def megatron_layout(model: Model, layers: Sequence[Sequence[int]], ranks: int) -> str:
    """Return the layout string of a model cut into stages.

    Parameters
    ----------
    layers
        By stage, the positions of its layers.

    Raises
    ------
    InputError
        If a layer is of no kind that Megatron knows, or Megatron would refuse the layout; says why.
    """
    return _short(letters_of(model, layers, ranks))


def letters_of(model: Model, layers: Sequence[Sequence[int]], ranks: int) -> list[str]:
    """Return the letters of each stage; raises as :func:`megatron_layout`."""
    unknown = [layer.name for layer in model.layers if layer.kind not in LETTERS]
    if unknown:
        hint = f"each layer has a kind: {', '.join(LETTERS)}"
        raise InputError(Fault("layer", f"{unknown[0]} is of no kind that Megatron knows", hint))
    stages = ["".join(LETTERS[model.layers[i].kind] for i in stage) for stage in layers]
    if faults := refusals(stages, ranks):
        raise InputError([Fault("partition", fault) for fault in faults])
    return stages


def read_layout(text: str) -> list[str]:
    """Return the letters of each stage of a layout string.

    Raises
    ------
    InputError
        If a letter is none of Megatron's.
    """
    plain = text.replace(",", "")
    for pattern in _REPEATED:
        plain = pattern.sub(lambda match: match[1] * int(match[2]), plain)
    if wrong := set(plain) - {*LETTERS.values(), "|"}:
        raise InputError(Fault("layout", f"{min(wrong)!r} is no letter of a layout", "E, t, m, L, | and repeats"))
    return plain.split("|")


def refusals(stages: Sequence[str], ranks: int) -> list[str]:
    """Return why Megatron would refuse stages; empty where it would not."""
    whole, told = "".join(stages), []
    if len(stages) % ranks:
        told.append(f"{len(stages)} stages are no multiple of {ranks} ranks")
    if whole.count("E") != 1 or not whole.startswith("E"):
        told.append("the first layer must be the embedding, and no other")
    if whole.count("L") != 1 or not whole.endswith("L"):
        told.append("the last layer must be the loss, and no other")
    if "t" in whole.partition("m")[2]:
        told.append("decoder layers must stand before those of multi-token prediction")
    holders = [stage for stage, letters in enumerate(stages) if "m" in letters]
    if len(holders) > 1:
        told.append("the layers of multi-token prediction must stand in one stage")
    if any(stage < len(stages) - ranks for stage in holders):
        told.append("multi-token prediction must stand in the last stage of its rank")
    return told


def _short(stages: Sequence[str]) -> str:
    """Write stages short: runs of a letter, and runs of equal stages."""
    runs = [(letters, len(list(same))) for letters, same in groupby(stages)]
    text = ""
    for i, (letters, count) in enumerate(runs):
        stage = "".join(f"{letter}*{n}" if n > 1 else letter for letter, n in _letters(letters))
        before_last = count - (i == len(runs) - 1)
        text += f"({stage}|)*{before_last}," if before_last > 1 else f"{stage}|" * before_last
        text += stage if before_last < count else ""
    return text


def _letters(letters: str) -> list[tuple[str, int]]:
    return [(letter, len(list(same))) for letter, same in groupby(letters)]
