"""How a message says that it is not of the form that its reader expects, at no cost where it is.

From the second step on a reader posts buffers for what came the last time. A sender whose tensors have another form
puts a mark where the reader expects the first tensor that has room for it, empty messages where it expects the others,
and sends header and tensors behind them. Tensors that begin like the mark by chance have a header too, which then says
that nothing has changed. gloo takes a message into a longer buffer, and keeps the order of those of one tag.
"""

from __future__ import annotations

import ctypes
import math
from functools import lru_cache
from typing import Any, Final

import torch

from schedverify.runner.p2p.messages import Signature

MARK: Final = bytes.fromhex("9d1f5e07c26ab438")
"""With what the first tensor that has room for it begins, where a header tells what follows."""


@lru_cache(maxsize=256)
def leading(members: Signature) -> int | None:
    """Return which tensor has room for the mark, the first one; None where none has."""
    for i, (dtype, shape) in enumerate(members):
        if math.prod(shape) * dtype.itemsize >= len(MARK):
            return i
    return None


def begins_with_mark(tensor: Any) -> bool:
    """Whether a contiguous tensor, of at least as many bytes as the mark has, begins with it."""
    if not tensor.is_cpu:
        tensor = tensor.reshape(-1)[: len(MARK)].cpu()
    return ctypes.string_at(tensor.data_ptr(), len(MARK)) == MARK


def placeholders(count: int, place: int) -> list[Any]:
    """Return ``count`` tensors to send where others are expected: the mark at a place, no bytes elsewhere."""
    found = [torch.empty(0, dtype=torch.uint8) for _ in range(count)]
    found[place] = torch.tensor(list(MARK), dtype=torch.uint8)
    return found
