"""The tags of messages over gloo: those of tensors that cross boundaries count from 0, the others are the highest."""

from __future__ import annotations

from typing import Final

BOUNDARIES: Final = (1 << 31) - 8
"""How many tags there are for what crosses boundaries."""
NEVER: Final = BOUNDARIES
"""No message has it."""
COLLECTED: Final = BOUNDARIES + 1
SUMS: Final = BOUNDARIES + 2
"""Sums of gradients go in one order on each pair of ranks."""
EXCHANGED: Final = BOUNDARIES + 3
LAST_WORDS: Final = BOUNDARIES + 4
