"""Rows as text: those of a text form, and what packed words are written as, quickly and in little memory."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schedverify.core.op import KIND_SHIFT, MICROBATCH_MASK, STAGE_SHIFT, Kind, unpack

_PART: Final = 1 << 16
"""Operations that are made text at a time."""
_BEYOND: Final = int(Kind.W) + 1 << KIND_SHIFT
"""Words from here on are no computing, or are joined to the word before them."""

_ROW: Final = re.compile(r"^[^\S\n]*[^\s#][^\n]*", re.MULTILINE)
"""A line on which something stands before any comment."""


def text_rows(text: str) -> Iterator[tuple[int, str]]:
    """Yield for each rank of the text form its line, from 1, and its order; only LF, CR and CR LF end a line."""
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    number, seen = 1, 0
    for match in _ROW.finditer(text):
        number += text.count("\n", seen, match.start())
        seen = match.start()
        yield number, match[0].partition("#")[0].strip()


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
