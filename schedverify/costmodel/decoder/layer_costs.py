"""Bytes that a device keeps of one micro-batch in each layer.

Each operator keeps its inputs, as far as its backward reads them. Tensors inside the attention and the feed-forward
network are split over the tensor-parallel devices; those around them (norms, residuals, dropout, inputs of the blocks)
only with sequence parallelism.

Source: Korthikanti et al. 2022, arXiv 2205.05198, sections 4.1 to 4.3.
"""

from __future__ import annotations

from typing import NamedTuple

from schedverify.costmodel.decoder.shape import Decoder
from schedverify.costmodel.decoder.training import Training


class Flops(NamedTuple):
    """Operations of F, and of the input and the weight part of the backward."""

    forward: int
    backward_input: int
    backward_weight: int


def layer_flops(shape: Decoder, training: Training) -> Flops:
    """Return the operations of one transformer layer.

    Of GPT's shape ``sbh(24h + 4s)``, ``sbh(24h + 8s)`` and ``24sbh^2``. What is recomputed belongs to the input part:
    all of the forward, or of the attention core, ``4 b s^2 h``.

    Source: Narayanan et al. 2021, arXiv 2104.04473, appendix; Qi et al. 2023, arXiv 2401.10241, table 1.
    """
    weights = shape.attention + shape.top_k * shape.network + shape.router
    linear = 2 * training.tokens * weights
    core = 4 * training.tokens * training.sequence * shape.queries
    again = {"none": 0, "selective": core, "full": linear + core}[training.recompute]
    return Flops(linear + core, linear + 2 * core + again, linear)


def head_flops(shape: Decoder, training: Training) -> Flops:
    """Return the operations of the output layer: ``2 b s h V`` in each part, ``6 b s h V`` in all.

    Source: Narayanan et al. 2021, arXiv 2104.04473, appendix.
    """
    once = 2 * training.tokens * shape.hidden * shape.vocabulary
    return Flops(once, once, once)


def model_flops(shape: Decoder, training: Training) -> int:
    """Return the operations of one micro-batch, forward and backward, through the whole model.

    Of GPT's shape with recomputation ``96 b s l h^2 (1 + s / (6 h) + V / (16 l h))``, without it
    ``72 b s l h^2 (1 + s / (6 h) + V / (12 l h))``.

    Source: Narayanan et al. 2021, arXiv 2104.04473, equation 3; Korthikanti et al. 2022, arXiv 2205.05198, equation 7.
    """
    return shape.layers * sum(layer_flops(shape, training)) + sum(head_flops(shape, training))


def layer_activation(shape: Decoder, training: Training) -> int:
    """Return the bytes that one layer keeps from F to B.

    Of GPT's shape in 16 bits ``sbh (10 + 24 / t + 5 a s / (h t))``, with sequence parallelism
    ``sbh / t (34 + 5 a s / h)``; with selective recomputation without the last term, with full ``2 s b h``. A gated
    network keeps three tensors of its width, experts their own inputs and outputs as well: counted in the same way.
    """
    if training.recompute == "full":
        return _shared(training.number * training.tokens * shape.hidden, 0, training)
    return kept_activation(shape, training)


def kept_activation(shape: Decoder, training: Training) -> int:
    """Return the bytes that one layer keeps where it is not recomputed as a whole."""
    tokens, number = training.tokens, training.number
    masks = 2 if shape.dropout else 0
    around = tokens * shape.hidden * (4 * number + masks + number * _dealt(shape))
    inside = number * tokens * (2 * shape.queries + 2 * shape.keys + (3 if shape.gated else 2) * _inner(shape))
    if training.recompute == "none":
        inside += (2 * number + 1 if shape.dropout else number) * shape.heads * tokens * training.sequence
    return _shared(around, inside, training)


def layer_stash(shape: Decoder, training: Training) -> int:
    """Return the bytes of one layer that are held from I to W: each linear map's input and its output's gradient.

    Of GPT's shape in 16 bits ``32 s b h``, over all tensor-parallel devices.

    Source: Qi et al. 2023, arXiv 2401.10241, table 1.
    """
    tokens, number = training.tokens, training.number
    around = number * tokens * shape.hidden * ((3 if shape.experts > 1 else 4) + _dealt(shape))
    widths = 2 * shape.queries + 2 * shape.keys + (3 if shape.gated else 2) * _inner(shape)
    return _shared(around, number * tokens * widths, training)


def embedding_activation(shape: Decoder, training: Training) -> int:
    """Return the bytes that the embedding keeps: the mask of its dropout."""
    return _shared(training.tokens * shape.hidden if shape.dropout else 0, 0, training)


def head_activation(shape: Decoder, training: Training) -> int:
    """Return the bytes that final norm, output layer and loss keep: ``4 s b h (1 + V / h) / t`` in 16 bits.

    The logits are kept in fp32, split over the devices.
    """
    around = 2 * training.number * training.tokens * shape.hidden
    return _shared(around, 4 * training.tokens * shape.vocabulary, training)


def head_stash(shape: Decoder, training: Training) -> int:
    """Return the bytes of the output layer from I to W: its input, and the logits' gradient in their place."""
    around = training.number * training.tokens * shape.hidden
    return _shared(around, 4 * training.tokens * shape.vocabulary, training)


def boundary(shape: Decoder, training: Training) -> int:
    """Return the bytes that a device sends to the next stage: the devices of a stage share the tensor.

    Source: Narayanan et al. 2021, arXiv 2104.04473, section 4.1 (scatter and gather).
    """
    return -(-training.number * training.tokens * shape.hidden // training.tensor_parallel)


def _inner(shape: Decoder) -> int:
    return shape.top_k * shape.inner


def _dealt(shape: Decoder) -> int:
    """Return how many tensors of the hidden width are kept where tokens go to experts: their inputs and outputs."""
    return 2 * shape.top_k if shape.experts > 1 else 0


def _shared(around: int, inside: int, training: Training) -> int:
    split = training.tensor_parallel
    whole = around + inside if training.sequence_parallel else inside
    rest = 0 if training.sequence_parallel else around
    return rest + -(-whole // split)
