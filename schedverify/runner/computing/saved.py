"""Holds what autograd saves for a backward in two parts, so that what its second part does not read can be let go."""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache
from typing import Any

import torch


@lru_cache(maxsize=1024)
def _shows(node_type: Any) -> tuple[str, ...]:
    """Return the attributes by which nodes of a type show what they saved."""
    return tuple(name for name in dir(node_type) if name.startswith("_saved_") or name == "saved_tensors")


class _Held:
    """One tensor that autograd saved, with its version at that time."""

    __slots__ = ("tensor", "version")

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor.detach()
        self.version = tensor._version


class Saved:
    """What autograd saved during one forward."""

    def __init__(self) -> None:
        self._held: list[_Held] = []
        self._read: list[_Held] | None = None

    def hooks(self) -> Any:
        """Return a context in which everything that autograd saves is held here."""
        return torch.autograd.graph.saved_tensors_hooks(self._hold, self._give)

    def keep_only(self, nodes: Iterable[Any]) -> None:
        """Let go of all that is not saved for one of the nodes; for nodes that do not show what they saved, of nothing.

        Nodes show it by attributes named ``_saved_...`` or ``saved_tensors``; those written in C++ do not.
        """
        nodes = list(nodes)
        if any("CppNode" in node.name() for node in nodes):
            return
        self._read = []
        for node in nodes:
            for attribute in _shows(node.__class__):
                getattr(node, attribute)
        kept, self._read = {id(held) for held in self._read}, None
        for held in self._held:
            if id(held) not in kept:
                held.tensor = None
        self._held = [held for held in self._held if held.tensor is not None]

    def _hold(self, tensor: Any) -> _Held:
        held = _Held(tensor)
        self._held.append(held)
        return held

    def _give(self, held: _Held) -> Any:
        if self._read is not None:
            self._read.append(held)
        if held.tensor._version != held.version:
            raise RuntimeError("a tensor that the backward needs was changed in place")
        return held.tensor
