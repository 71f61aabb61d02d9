"""What a header tells of a message that follows it: dtypes, shapes and needs of its tensors, and their structure.

A header is a row of ``HEADER`` whole numbers::

    count | text | dtype 0, needs 0, dimensions 0, shape 0 (MOST_DIMENSIONS numbers, filled up) | dtype 1, ... | zeros

A dtype is its place in ``DTYPES``; ``needs`` is 1 where a gradient comes back, else 0. ``text`` is -1 where one tensor
crosses, 0 where a tuple of tensors does; else the structure follows as a text of so many bytes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import torch

from schedverify.runner.compute.parcels import Parcel, needs_of
from schedverify.runner.compute.structures import (
    MOST_TEXT,
    TENSOR,
    Structure,
    structure_of,
    tensors_in,
    text_of,
)
from schedverify.runner.p2p.messages import DTYPES, MOST_TENSORS, Signature, is_differentiable, signature

MOST_DIMENSIONS: Final = 8
_WIDTH: Final = 3 + MOST_DIMENSIONS
HEADER: Final = 2 + MOST_TENSORS * _WIDTH
MOST_BYTES: Final = 1 << 35
"""The most bytes that the tensors of one message may have together, by its header."""
_LONE, _TUPLE = -1, 0


class MessageForm(NamedTuple):
    """What a message from a stage to the next looks like, but for its numbers."""

    members: Signature
    """Dtype and shape of each tensor."""
    needs: tuple[bool, ...]
    """Whether a gradient comes back for each tensor."""
    structure: Structure
    """That of the value in which they stand."""

    @property
    def gradients(self) -> Signature:
        """Dtype and shape of each gradient that comes back."""
        if all(self.needs):
            return self.members
        return tuple([member for member, needed in zip(self.members, self.needs, strict=True) if needed])

    @property
    def is_plain(self) -> bool:
        """Whether the value is a tensor, or a tuple or list of tensors."""
        kind, *children = self.structure
        return kind in ("tensor", "tuple", "list") and all(child == TENSOR for child in children)


def form_of(tensors: tuple[Any, ...], members: Signature | None = None) -> MessageForm:
    """Return the form of tensors that are about to cross, whose dtypes and shapes may be known already."""
    structure = tensors.structure if isinstance(tensors, Parcel) else tuple_of(len(tensors))
    return MessageForm(signature(tensors) if members is None else members, needs_of(tensors), structure)


def form_declared(members: Signature) -> MessageForm:
    """Return the form where no header can tell it: gradients come back by dtype, for a tensor or a tuple of tensors."""
    needs = tuple(is_differentiable(dtype) for dtype, _ in members)
    return MessageForm(members, needs, TENSOR if len(members) == 1 else tuple_of(len(members)))


def tuple_of(count: int) -> Structure:
    """Return the structure of a tuple of tensors."""
    return ("tuple", *[TENSOR] * count)


def header_objection(form: MessageForm) -> str:
    """Return why a header cannot hold a form; empty where it can."""
    if len(form.members) > MOST_TENSORS:
        return f"{len(form.members)} tensors, at most {MOST_TENSORS} may cross together"
    for dtype, shape in form.members:
        if dtype not in DTYPES:
            return f"tensors of {dtype} do not cross"
        if len(shape) > MOST_DIMENSIONS:
            return f"a tensor of {len(shape)} dimensions, at most {MOST_DIMENSIONS} may cross"
    size = len(_text_of(form))
    return f"a structure of {size} bytes as text, at most {MOST_TEXT} may cross" if size > MOST_TEXT else ""


def header_of(form: MessageForm) -> list[Any]:
    """Return the header of a form, an int64 tensor of shape ``(HEADER,)``, and its text where it has one, as bytes."""
    text = _text_of(form)
    plain = _LONE if form.structure == TENSOR else _TUPLE
    words = [len(form.members), len(text) or plain]
    for (dtype, shape), needed in zip(form.members, form.needs, strict=True):
        words += [DTYPES.index(dtype), needed, len(shape), *shape, *[0] * (MOST_DIMENSIONS - len(shape))]
    header = torch.tensor(words + [0] * (HEADER - len(words)))
    return [header, torch.tensor(list(text), dtype=torch.uint8)] if text else [header]


def text_bytes_in(header: Any) -> int:
    """Return of how many bytes the text is that follows a header.

    Raises
    ------
    ValueError
        If there cannot be such a text.
    """
    size = int(header[1])
    if not _LONE <= size <= MOST_TEXT:
        raise ValueError(f"its header names a text of {size} bytes, at most {MOST_TEXT} may cross")
    return max(size, 0)


def form_in(header: Any, text: bytes) -> MessageForm:
    """Return the form that a header and its text hold.

    Raises
    ------
    ValueError
        If they hold none, or one of more bytes than a message may have.
    """
    count, kind, *words = header.tolist()
    if not 0 <= count <= MOST_TENSORS:
        raise ValueError(f"its header names {count} tensors, at most {MOST_TENSORS} may cross together")
    rows = [words[i * _WIDTH : (i + 1) * _WIDTH] for i in range(count)]
    members = tuple(_member(i, row) for i, row in enumerate(rows))
    total = sum(dtype.itemsize * math.prod(max(size, 1) for size in shape) for dtype, shape in members)
    if total > MOST_BYTES:
        raise ValueError(f"its header names {total} bytes, at most {MOST_BYTES} may cross together")
    structure = _structure_in(kind, count, text)
    if tensors_in(structure) != count:
        raise ValueError(f"its header names {count} tensors, its structure {tensors_in(structure)}")
    return MessageForm(members, tuple(bool(row[1]) for row in rows), structure)


def _structure_in(kind: int, count: int, text: bytes) -> Structure:
    if kind > 0:
        return structure_of(text.decode())
    return TENSOR if kind == _LONE else tuple_of(count)


def _member(number: int, row: Sequence[int]) -> tuple[Any, tuple[int, ...]]:
    dtype, needed, dimensions, *shape = row
    possible = 0 <= dtype < len(DTYPES) and 0 <= dimensions <= MOST_DIMENSIONS and all(size >= 0 for size in shape)
    if not possible or needed not in (0, 1) or (needed and not is_differentiable(DTYPES[dtype])):
        raise ValueError(f"its header names a tensor {number} that there cannot be")
    return DTYPES[dtype], tuple(shape[:dimensions])


def _text_of(form: MessageForm) -> bytes:
    """Return the text of a structure that the header itself cannot hold; empty where it can."""
    plain = form.structure == TENSOR or form.structure == tuple_of(len(form.members))
    return b"" if plain else text_of(form.structure).encode()
