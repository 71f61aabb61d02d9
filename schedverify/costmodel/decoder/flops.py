"""Floating-point operations of a decoder's layers, by pass, for one micro-batch and over all tensor-parallel devices.

Multiplication and addition count as two; the causal mask saves nothing, as published counts have it; norms, activations
and softmax are left out.
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
