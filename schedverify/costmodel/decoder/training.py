"""The value Training: how a decoder is trained, as far as it changes FLOPs and bytes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DTYPES: Final = {"bf16": 2, "fp16": 2, "fp32": 4}
"""Bytes of a number."""
RECOMPUTE: Final = ("none", "selective", "full")
_MASTER: Final = {2: 12, 4: 8}
"""Adam's bytes of a parameter, which a distributed optimizer deals out: two moments, and a copy in fp32."""


@dataclass(frozen=True)
class Training:
    """How a decoder is trained.

    Attributes
    ----------
    sequence, microbatch_size
        Tokens of a sequence, and sequences of a micro-batch.
    dtype
        Of weights and activations: ``bf16``, ``fp16`` or ``fp32``.
    tensor_parallel
        Devices that share each layer.
    sequence_parallel
        Whether they share the norms and residuals too.
    recompute
        What the backward computes again: ``none``, ``selective`` (the attention core; what fused attention keeps is the
        same), ``full`` (each layer from its input).
    bytes_per_parameter
        Of weight, gradient and optimizer together; 0 for mixed-precision Adam with gradients in fp32: 18, or 16 where
        weights are fp32.
    data_parallel
        Copies of the model.
    distributed_optimizer
        Whether they deal out the optimizer's state.
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
    def number(self) -> int:
        """Bytes of a number."""
        return DTYPES[self.dtype]

    @property
    def gradient_bytes(self) -> int:
        """Bytes of a parameter's gradient."""
        return (self.bytes_per_parameter or self.least_bytes + 4) - self.least_bytes

    @property
    def least_bytes(self) -> int:
        """Bytes of a parameter's weight and optimizer state alone."""
        return self.number + _MASTER[self.number]

    def state_bytes(self, parameters: int) -> int:
        """Return the bytes of gradients and optimizer state of parameters on a device.

        With a distributed optimizer ``6 + 12 / d`` bytes a parameter in all, of bf16 with gradients in fp32.

        Source: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), section 3.1; Megatron Core, guide to the distributed
        optimizer.
        """
        shares = self.data_parallel if self.distributed_optimizer else 1
        return self.gradient_bytes * parameters + -(-_MASTER[self.number] * parameters // shares)
