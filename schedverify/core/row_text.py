"""The text of long rows of single compute operations, made part by part of their packed words: in little memory."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

from schedverify.core.op import KIND_SHIFT, MICROBATCH_MASK, STAGE_SHIFT, Kind, unpack

_PART: Final = 1 << 16
"""Operations that are made text at a time."""
_BEYOND: Final = int(Kind.W) + 1 << KIND_SHIFT
"""Words from here on are no computing, or are joined to the word before them."""


def computes_alone(row: NDArray[np.int64]) -> bool:
    """Whether every step of a row is one operation that computes."""
    return int(row.max(initial=0)) < _BEYOND


def row_text(row: NDArray[np.int64]) -> str:
    """Return the operations of a row as text, parted by blanks; each is a step that computes."""
    return " ".join(_text(row[begin : begin + _PART]) for begin in range(0, len(row), _PART))


def _text(row: NDArray[np.int64]) -> str:
    keys, microbatches = (row >> STAGE_SHIFT).tolist(), (row & MICROBATCH_MASK).tolist()
    letters = {key: str(unpack(key << STAGE_SHIFT)).removesuffix("0") for key in set(keys)}
    return " ".join([f"{letters[key]}{m}" for key, m in zip(keys, microbatches, strict=True)])
