"""From which size on compiled loops pay: below it, loading the compiler takes longer than the plain loop."""

from __future__ import annotations

LARGE = 100_000
"""Operations, or events."""


def is_large(size: int) -> bool:
    """Whether so many operations are for the compiled loops of :mod:`schedverify.simulator.kernels`."""
    return size >= LARGE
