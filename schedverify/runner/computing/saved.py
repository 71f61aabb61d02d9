"""Holds what autograd saves for a backward in two parts, so that what its second part does not read can be let go."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import torch


@lru_cache(maxsize=1024)
def _shows(node_type: Any) -> tuple[str, ...] | None:
    """Return the attributes by which nodes of a type show the tensors they saved; None where they do not show them.

    Those that autograd knows have ``_saved_...``, and ``_raw_saved_...`` beside it where that is a tensor; functions
    written in Python have ``saved_tensors``. Functions written in C++ are all of one type and show nothing.
    """
    if node_type.__name__ == "CppFunction":
        return None
    names = set(dir(node_type))
    return tuple(name for name in names if name == "saved_tensors" or f"_raw{name}" in names)


class Saved:
    """What autograd saved during one forward."""

    def __init__(self) -> None:
        self._held: list[Any] = []
        self._versions: list[int] = []
        self._read: set[int] | None = None

    def hooks(self) -> Any:
        """Return a context in which everything that autograd saves is held here."""
        return torch.autograd.graph.saved_tensors_hooks(self._hold, self._give)

    def keep_only(self, nodes: Sequence[Any]) -> None:
        """Let go of all that is not saved for one of the nodes; of nothing where one does not show what it saved."""
        shown = [_shows(node.__class__) for node in nodes]
        if None in shown:
            return
        self._read = set()
        for node, attributes in zip(nodes, shown, strict=True):
            for attribute in attributes or ():
                getattr(node, attribute)
        self._held = [tensor if number in self._read else None for number, tensor in enumerate(self._held)]
        self._read = None

    def _hold(self, tensor: Any) -> int:
        self._held.append(tensor.detach())
        self._versions.append(tensor._version)
        return len(self._versions) - 1

    def _give(self, number: int) -> Any:
        if self._read is not None:
            self._read.add(number)
        tensor = self._held[number]
        if tensor._version != self._versions[number]:
            raise RuntimeError("a tensor that the backward needs was changed in place")
        return tensor
