"""Megatron's older flags for the cut of a model: layers of the first and last rank, or embedding and loss counted.

All ranks but the first and the last have equally many decoder layers, and all stages of a rank have; what the flags
can say is little. A partition that they cannot say goes into the layout string.

Source: NVIDIA/Megatron-LM, ``get_num_layers_to_build`` in ``megatron/core/transformer/transformer_block.py`` and the
checks of ``TransformerConfig`` and ``megatron/training/arguments.py``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

from schedverify.core.errors import Fault, InputError
from schedverify.core.model import Model
from schedverify.formats.megatron_cuts import letters_of


class Flags(NamedTuple):
    """What is said: decoder layers of the first and of the last rank, whether embedding and loss count as a layer."""

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
    """Yield what may say the decoder layers of each stage, the fewest flags first."""
    yield from (Flags(), Flags(embedding=True), Flags(loss=True))
    first, last = sum(decoders[::ranks]), sum(decoders[ranks - 1 :: ranks])
    yield from (Flags(first), Flags(last=last), Flags(embedding=True, loss=True), Flags(first, last))
