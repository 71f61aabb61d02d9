"""The values Decoder and Training: the shape of a decoder-only transformer, and how it is trained."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final


@dataclass(frozen=True)
class Decoder:
    """The shape of a decoder-only transformer. Numbers that are not given follow from the others.

    Attributes
    ----------
    layers, hidden, heads, vocabulary
        Transformer layers, width, attention heads, rows of the embedding.
    kv_heads
        Heads of keys and values, as many as ``heads`` where 0.
    head_size
        Width of a head, ``hidden / heads`` where 0.
    ffn
        Width of the feed-forward network, ``4 * hidden`` where 0; of each expert, where there are several.
    gated
        Whether the network has a gate beside its first matrix (SwiGLU), three matrices in all.
    biases
        Whether linear maps and norms have a bias (LayerNorm with scale and shift; else RMSNorm).
    dropout
        Whether attention and residuals have dropout, whose masks are kept.
    positions
        Rows of a learned position embedding; 0 where there is none.
    experts, top_k
        Feed-forward networks of a layer, and how many of them each token goes through.
    tied
        Whether embedding and output layer share their weights.
    """

    layers: int
    hidden: int
    heads: int
    vocabulary: int
    kv_heads: int = 0
    head_size: int = 0
    ffn: int = 0
    gated: bool = False
    biases: bool = False
    dropout: bool = False
    positions: int = 0
    experts: int = 1
    top_k: int = 1
    tied: bool = False

    @property
    def query_width(self) -> int:
        """The width of all queries of a token."""
        return self.heads * (self.head_size or self.hidden // self.heads)

    @property
    def key_width(self) -> int:
        """The width of all keys of a token; that of its values is equal."""
        return (self.kv_heads or self.heads) * (self.head_size or self.hidden // self.heads)

    @property
    def ffn_width(self) -> int:
        """The width of the feed-forward network, or of one expert."""
        return self.ffn or 4 * self.hidden

    @property
    def router_weights(self) -> int:
        """How many weights a layer's router has: none where there is a single expert."""
        return self.hidden * self.experts if self.experts > 1 else 0

    @property
    def expert_weights(self) -> int:
        """How many weights one expert's matrices have."""
        return (3 if self.gated else 2) * self.hidden * self.ffn_width

    @property
    def attention_weights(self) -> int:
        """How many weights a layer's four attention matrices have."""
        return self.hidden * (2 * self.query_width + 2 * self.key_width)

    def layer_parameters(self, tensor_parallel: int = 1) -> int:
        """Return how many parameters of one layer a device holds; norms, router and output biases are not split."""
        split = self.attention_weights + self.experts * self.expert_weights
        whole = 2 * self.norm_parameters + self.router_weights
        if self.biases:
            split += self.query_width + 2 * self.key_width + self.experts * (2 if self.gated else 1) * self.ffn_width
            whole += self.hidden + self.experts * self.hidden
        return -(-split // tensor_parallel) + whole

    def table_parameters(self, tensor_parallel: int = 1) -> int:
        """Return how many parameters of the embedding's table, or of the output layer's, a device holds."""
        return -(-self.vocabulary // tensor_parallel) * self.hidden

    @property
    def norm_parameters(self) -> int:
        """How many parameters one norm has."""
        return (2 if self.biases else 1) * self.hidden

    @property
    def parameters(self) -> int:
        """How many parameters the model has, on one device.

        Of GPT's shape ``12 l h^2 (1 + 13 / (12 h) + (V + s) / (12 l h))``, for ``l`` layers of width ``h``, ``V`` rows
        of the vocabulary and ``s`` positions, and the final norm's ``2 h``.

        Source: Narayanan et al. 2021, arXiv 2104.04473, equation 2.
        """
        tables = self.table_parameters() * (1 if self.tied else 2) + self.positions * self.hidden
        return self.layers * self.layer_parameters() + tables + self.norm_parameters


DTYPES: Final = {"bf16": 2, "fp16": 2, "fp32": 4}
"""Bytes of a number by its dtype."""
RECOMPUTE: Final = ("none", "selective", "full")
_ADAM_BYTES: Final = {2: 12, 4: 8}
"""Adam's bytes of a parameter by those of a weight: two moments in fp32, and a copy of weights in 16 bits in fp32."""


@dataclass(frozen=True)
class Training:
    """How a decoder is trained, as far as it changes FLOPs and bytes.

    Attributes
    ----------
    sequence, microbatch_size
        Tokens of a sequence, and sequences of a micro-batch.
    dtype
        The dtype of weights and activations: ``bf16``, ``fp16`` or ``fp32``.
    tensor_parallel
        Devices that share each layer.
    sequence_parallel
        Whether they share the norms and residuals too.
    recompute
        What the backward computes again: ``none``, ``selective`` (the attention core; fused attention saves the same
        tensors), ``full`` (each layer from its input).
    bytes_per_parameter
        Bytes of weight, gradient and optimizer state together; 0 for mixed-precision Adam with gradients in fp32,
        which takes 18, or 16 where weights are fp32.
    data_parallel
        Copies of the model.
    distributed_optimizer
        Whether the copies share the optimizer's state, each with an equal part of it.
    """

    sequence: int
    microbatch_size: int = 1
    dtype: str = "bf16"
    tensor_parallel: int = 1
    sequence_parallel: bool = True
    recompute: str = "selective"
    bytes_per_parameter: int = 0
    data_parallel: int = 1
    distributed_optimizer: bool = False

    @property
    def tokens(self) -> int:
        """Tokens of a micro-batch."""
        return self.sequence * self.microbatch_size

    @property
    def number_bytes(self) -> int:
        """Bytes of a number."""
        return DTYPES[self.dtype]

    @property
    def gradient_bytes(self) -> int:
        """Bytes of a parameter's gradient."""
        return (self.bytes_per_parameter or self.weight_and_optimizer_bytes + 4) - self.weight_and_optimizer_bytes

    @property
    def weight_and_optimizer_bytes(self) -> int:
        """Bytes of a parameter's weight and optimizer state alone."""
        return self.number_bytes + _ADAM_BYTES[self.number_bytes]

    def state_bytes(self, parameters: int) -> int:
        """Return the bytes of gradients and optimizer state that so many parameters take on a device.

        With a distributed optimizer over ``d`` copies, weights in bf16 and gradients in fp32, a parameter takes
        ``6 + 12 / d`` bytes, weight included.

        Source: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), section 3.1; Megatron Core, guide to the distributed
        optimizer.
        """
        shares = self.data_parallel if self.distributed_optimizer else 1
        return self.gradient_bytes * parameters + -(-_ADAM_BYTES[self.number_bytes] * parameters // shares)
