"""The buffers of a module: what they hold before a forward, kept for the time when it is run again.

A forward that writes into buffers, such as one that counts its batches or takes running means, is to have written once
where it runs twice. So the second run gets copies of what the buffers held before the first, in place of the buffers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from schedverify.runner.compute.autograd import storage_of

BufferValues = tuple[dict[str, Any], ...]
"""By part of a module that had buffers its tensors by name, None where there is none."""


class Buffers:
    """The buffers of a module and its parts, by name; forwards may write into them, and bind or add others."""

    def __init__(self, module: Any) -> None:
        self._module = module

    @cached_property
    def _parts(self) -> list[dict[str, Any]]:
        return [part._buffers for part in self._module.modules() if isinstance(part._buffers, dict)]

    def copies(self) -> BufferValues:
        """Return copies of what they hold; a tensor that stands in several places is copied once."""
        copied: dict[int, Any] = {id(None): None}
        for part in self._parts:
            for tensor in part.values():
                if id(tensor) not in copied:
                    copied[id(tensor)] = tensor.detach().clone()
        return tuple({name: copied[id(tensor)] for name, tensor in part.items()} for part in self._parts)

    @contextmanager
    def holding(self, values: BufferValues) -> Iterator[None]:
        """Have the module find other tensors in place of its buffers within this context."""
        now = tuple(dict(part) for part in self._parts)
        self._put(values)
        try:
            yield
        finally:
            self._put(now)

    def _put(self, values: BufferValues) -> None:
        for part, held in zip(self._parts, values, strict=True):
            part.clear()
            part.update(held)

    def apart(self, tensor: Any) -> Any:
        """Return a tensor without a graph; a copy where it shares memory with a buffer, which may be written into."""
        place = storage_of(tensor) if any(self._parts) else 0
        shares = place and any(place == storage_of(each) for part in self._parts for each in part.values())
        return tensor.clone() if shares else tensor.detach()
