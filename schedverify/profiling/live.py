"""Counts the bytes that are still held: of every tensor that operations made, until nobody has it any more."""

from __future__ import annotations

import gc
from collections.abc import Iterable
from typing import Any

import torch
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveStorages(TorchDispatchMode):  # type: ignore[misc]
    """A context that notes every storage that an operation makes, forward or backward, without keeping it alive.

    Views share a storage, which counts once and whole.
    """

    def __init__(self) -> None:
        super().__init__()
        self._noted: dict[int, tuple[Any, int]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and note what it made."""
        made = func(*args, **(kwargs or {}))
        self.note(each for each in tree_leaves(made) if isinstance(each, torch.Tensor))
        return made

    def note(self, tensors: Iterable[Any]) -> None:
        """Note tensors that were made elsewhere."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            # while the reference stands, no other storage gets its address
            self._noted.setdefault(storage._cdata, (StorageWeakRef(storage), storage.nbytes()))

    def held(self, besides: Iterable[Any]) -> int:
        """Return the bytes of what is noted and still held, without the storages of some tensors."""
        gc.collect(1)  # what is new; a whole collection takes long
        others = {tensor.untyped_storage()._cdata for tensor in besides}
        return sum(size for address, (reference, size) in self._noted.items()
                   if address not in others and not reference.expired())  # fmt: skip


def storages_of(tensors: Iterable[Any]) -> list[Any]:
    """Return weak references to the storages of tensors, each with ``expired()``."""
    return [StorageWeakRef(tensor.untyped_storage()) for tensor in tensors]
