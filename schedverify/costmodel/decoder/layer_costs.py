"""What one micro-batch costs in each layer of a decoder: floating-point operations, and bytes that a device saves.

In the formulas ``s`` is the tokens of a sequence, ``b`` the sequences of a micro-batch, ``h`` the hidden width, ``a``
the heads, ``l`` the layers, ``V`` the rows of the vocabulary and ``t`` the tensor-parallel devices. Those of papers are
for GPT's shape: a network of width ``4h``, as many heads of keys as of queries, dropout, 16 bits a number.

*Operations* are those of all tensor-parallel devices together. Multiplication and addition count as two; the causal
mask saves nothing, as published counts have it; norms, activation functions and softmax are left out.

*Bytes* are those of one device. Each operator saves its inputs, as far as its backward reads them. Tensors inside the
attention and the feed-forward network are split over the tensor-parallel devices; those around them (norms, residuals,
dropout, inputs of the blocks) only with sequence parallelism.

Sources: Narayanan et al. 2021, arXiv 2104.04473, appendix, and Qi et al. 2023, arXiv 2401.10241, table 1, for the
operations; Korthikanti et al. 2022, arXiv 2205.05198, sections 4.1 to 4.3, for the bytes.
"""

from __future__ import annotations

from typing import NamedTuple

from schedverify.costmodel.decoder.configuration import Decoder, Training


class Flops(NamedTuple):
    """Operations of F, and of the input and the weight part of the backward."""

    forward: int
    backward_input: int
    backward_weight: int


def layer_flops(shape: Decoder, training: Training) -> Flops:
    """Return the operations of one transformer layer.

    Of GPT's shape ``sbh (24h + 4s)`` for F, ``sbh (24h + 8s)`` for I and ``24 sbh^2`` for W. What is recomputed belongs
    to I: all of the forward, or of the attention core, ``4 b s^2 h``.

    Source: Qi et al. 2023, arXiv 2401.10241, table 1; Narayanan et al. 2021, arXiv 2104.04473, appendix.
    """
    weights = shape.attention_weights + shape.top_k * shape.expert_weights + shape.router_weights
    linear = 2 * training.tokens * weights
    core = 4 * training.tokens * training.sequence * shape.query_width
    recomputed = {"none": 0, "selective": core, "full": linear + core}[training.recompute]
    return Flops(linear + core, linear + 2 * core + recomputed, linear)


def head_flops(shape: Decoder, training: Training) -> Flops:
    """Return the operations of the output layer: ``2 b s h V`` in each of F, I and W.

    Source: Narayanan et al. 2021, arXiv 2104.04473, appendix (``6 b s h V`` in all).
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
    """Return the bytes that a device saves of one layer from F to the end of its B or I.

    Of GPT's shape ``sbh (10 + 24 / t + 5 a s / (h t))``, with sequence parallelism ``sbh / t (34 + 5 a s / h)``; with
    selective recomputation without the last term, with full ``2 s b h``, which sequence parallelism splits as well.

    Source: Korthikanti et al. 2022, arXiv 2205.05198, sections 4.1, 4.2 and 5.
    """
    if training.recompute == "full":
        return _per_device(training.number_bytes * training.tokens * shape.hidden, 0, training)
    return saved_activation(shape, training)


def saved_activation(shape: Decoder, training: Training) -> int:
    """Return the bytes that a device saves of one layer where it is not recomputed as a whole.

    Around the blocks each token has four tensors of the hidden width (the inputs of two norms and of two blocks) and
    two masks of a byte; inside them the queries, keys and values, the attention's output, and two tensors of the
    network's width, three where it is gated. Without recomputation the attention core has its probabilities, ``a s``
    numbers a token, with dropout also its mask and what comes out of it. Experts save their own inputs and outputs as
    well, counted in the same way.
    """
    tokens, number = training.tokens, training.number_bytes
    masks = 2 if shape.dropout else 0
    around = tokens * shape.hidden * (4 * number + masks + number * _expert_tensors(shape))
    inside = number * tokens * _inside_width(shape)
    if training.recompute == "none":
        inside += (2 * number + 1 if shape.dropout else number) * shape.heads * tokens * training.sequence
    return _per_device(around, inside, training)


def layer_stash(shape: Decoder, training: Training) -> int:
    """Return the bytes of one layer that a device holds from I to W: each linear map's input and output gradient.

    Of GPT's shape ``32 s b h``, over all tensor-parallel devices.

    Source: Qi et al. 2023, arXiv 2401.10241, table 1.
    """
    tokens, number = training.tokens, training.number_bytes
    around = number * tokens * shape.hidden * ((3 if shape.experts > 1 else 4) + _expert_tensors(shape))
    return _per_device(around, number * tokens * _inside_width(shape), training)


def embedding_activation(shape: Decoder, training: Training) -> int:
    """Return the bytes that a device saves of the embedding: the mask of its dropout, ``s b h``.

    Source: Korthikanti et al. 2022, arXiv 2205.05198, section 4.3.
    """
    return _per_device(training.tokens * shape.hidden if shape.dropout else 0, 0, training)


def head_activation(shape: Decoder, training: Training) -> int:
    """Return the bytes that a device saves of final norm, output layer and loss: ``4 s b h (1 + V / h) / t``.

    The logits are in fp32, split over the devices.

    Source: Korthikanti et al. 2022, arXiv 2205.05198, section 4.3.
    """
    around = 2 * training.number_bytes * training.tokens * shape.hidden
    return _per_device(around, 4 * training.tokens * shape.vocabulary, training)


def head_stash(shape: Decoder, training: Training) -> int:
    """Return the bytes of the output layer from I to W: its input, and the logits' gradient in place of the logits."""
    around = training.number_bytes * training.tokens * shape.hidden
    return _per_device(around, 4 * training.tokens * shape.vocabulary, training)


def boundary_bytes(shape: Decoder, training: Training) -> int:
    """Return the bytes that a device sends to the next stage: the devices of a stage share the tensor.

    Source: Narayanan et al. 2021, arXiv 2104.04473, section 4.1 (scatter and gather).
    """
    return -(-training.number_bytes * training.tokens * shape.hidden // training.tensor_parallel)


def _inside_width(shape: Decoder) -> int:
    """Return how many numbers a token has inside attention and network: the inputs and outputs of linear maps."""
    network = (3 if shape.gated else 2) * shape.top_k * shape.ffn_width
    return 2 * shape.query_width + 2 * shape.key_width + network


def _expert_tensors(shape: Decoder) -> int:
    """Return how many tensors of the hidden width are saved where tokens go to experts: their inputs and outputs."""
    return 2 * shape.top_k if shape.experts > 1 else 0


def _per_device(around: int, inside: int, training: Training) -> int:
    """Return the bytes of one device: those inside the blocks are split, those around them if sequences are."""
    split = around + inside if training.sequence_parallel else inside
    whole = 0 if training.sequence_parallel else around
    return whole + -(-split // training.tensor_parallel)
