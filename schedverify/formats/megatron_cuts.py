"""The cut of a model as Megatron takes it: its layout string, or its older flags.

The layout string (``--pipeline-model-parallel-layout``) has stages by bars and layers by letters, written short: ``E``
is the embedding, ``t`` a decoder layer, ``m`` a multi-token-prediction layer, ``L`` the loss with the output layer.
``x*n`` and ``(...)*n`` repeat; commas say nothing. Stages stand in the order of the model, which is that of Megatron:
stage ``s`` is on rank ``s mod P``.

The older flags give the decoder layers of the first and last rank, or count embedding and loss as a layer. All ranks
but the first and the last have equally many decoder layers, and so have all stages of a rank: the flags can say little.
A partition that they cannot say goes into the layout string.

Source: NVIDIA/Megatron-LM, ``megatron/core/transformer/pipeline_parallel_layer_layout.py`` (what the string may be);
``get_num_layers_to_build`` in ``megatron/core/transformer/transformer_block.py`` and the checks of
``TransformerConfig`` and ``megatron/training/arguments.py`` (the flags).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple

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
    whole = "".join(stages)
    holders = [stage for stage, letters in enumerate(stages) if "m" in letters]
    wrong = {
        f"{len(stages)} stages are no multiple of {ranks} ranks": len(stages) % ranks > 0,
        "the first layer must be the embedding, and no other": whole.count("E") != 1 or not whole.startswith("E"),
        "the last layer must be the loss, and no other": whole.count("L") != 1 or not whole.endswith("L"),
        "decoder layers must stand before those of multi-token prediction": "t" in whole.partition("m")[2],
        "the layers of multi-token prediction must stand in one stage": len(holders) > 1,
        "multi-token prediction must stand in the last stage of its rank": any("m" in each for each in stages[:-ranks]),
    }
    return [message for message, is_wrong in wrong.items() if is_wrong]


def _short(stages: Sequence[str]) -> str:
    """Return a layout string in which runs of one letter, and runs of equal stages, are written as repetitions."""
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


class Flags(NamedTuple):
    """Megatron's older flags: decoder layers of the first and last rank; whether embedding and loss count as layers."""

    first: int | None = None
    last: int | None = None
    embedding: bool = False
    loss: bool = False

    def arguments(self, ranks: int, virtual: int) -> list[str]:
        """Return the arguments of Megatron's command line, with those that they need."""
        words = ["--pipeline-model-parallel-size", str(ranks)]
        words += ["--num-virtual-stages-per-pipeline-rank", str(virtual)] if virtual > 1 else []
        words += [] if self.first is None else ["--decoder-first-pipeline-num-layers", str(self.first)]
        words += [] if self.last is None else ["--decoder-last-pipeline-num-layers", str(self.last)]
        words += ["--account-for-embedding-in-pipeline-split"] if self.embedding else []
        return words + (["--account-for-loss-in-pipeline-split"] if self.loss else [])


def megatron_flags(model: Model, layers: Sequence[Sequence[int]], ranks: int) -> list[str]:
    """Return the arguments with which Megatron cuts a model as ``layers`` do.

    Parameters
    ----------
    layers
        By stage, the positions of its layers; stage ``s`` is on rank ``s mod ranks``.

    Raises
    ------
    InputError
        If a layer is of no kind that Megatron knows, Megatron would refuse the stages, or its flags cannot say them.
    """
    stages = letters_of(model, layers, ranks)
    if any("m" in letters for letters in stages[:-1]) or not stages[0] or not stages[-1]:
        message = "the embedding stands in the first stage, multi-token prediction and loss in the last one"
        raise InputError(Fault("partition", message, "elsewhere only the layout string can put them"))
    decoders = [letters.count("t") for letters in stages]
    virtual = len(stages) // ranks
    for flags in _candidates(decoders, ranks):
        if decoder_layers(sum(decoders), ranks, virtual, flags) == decoders:
            return flags.arguments(ranks, virtual)
    message = f"Megatron's flags cannot say stages of {', '.join(map(str, decoders))} decoder layers"
    raise InputError(Fault("partition", message, "the layout string can: megatron-layout"))


def decoder_layers(total: int, ranks: int, virtual: int, flags: Flags) -> list[int] | None:
    """Return by stage how many decoder layers Megatron builds of ``total``; None where it refuses."""
    ends = [end for end in (flags.first, flags.last) if end is not None]
    left, middle = total + flags.embedding + flags.loss - sum(ends), ranks - len(ends)
    if ends and (flags.embedding or flags.loss or ranks == 1 or min(ends) < 1 or bool(left) != bool(middle)):
        return None
    if left < 0 or (middle and left % middle) or (virtual > 1 and ranks == 1):
        return None
    by_rank = [left // middle if middle else 0] * ranks
    if flags.first is not None:
        by_rank[0] = flags.first
    if flags.last is not None:
        by_rank[-1] = flags.last
    if any(count % virtual for count in by_rank):
        return None
    built = [count // virtual for count in by_rank] * virtual
    built[0] -= flags.embedding
    built[-1] -= flags.loss
    return built if min(built) >= 0 else None


def _candidates(decoders: Sequence[int], ranks: int) -> Iterator[Flags]:
    """Yield sets of flags that may give each stage its number of decoder layers, those with the fewest flags first."""
    yield from (Flags(), Flags(embedding=True), Flags(loss=True))
    first, last = sum(decoders[::ranks]), sum(decoders[ranks - 1 :: ranks])
    yield from (Flags(first), Flags(last=last), Flags(embedding=True, loss=True), Flags(first, last))
