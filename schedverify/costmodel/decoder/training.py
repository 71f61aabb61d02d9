"""The value Training: how a decoder is trained, as far as it changes FLOPs and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

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
