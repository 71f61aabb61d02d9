"""Bytes that a device keeps of one micro-batch in each layer.

Each operator keeps its inputs, as far as its backward reads them. Tensors inside the attention and the feed-forward
network are split over the tensor-parallel devices; those around them (norms, residuals, dropout, inputs of the blocks)
only with sequence parallelism.

Source: Korthikanti et al. 2022, arXiv 2205.05198, sections 4.1 to 4.3.
"""

from __future__ import annotations

from schedverify.costmodel.decoder.shape import Decoder
from schedverify.costmodel.decoder.training import Training


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
