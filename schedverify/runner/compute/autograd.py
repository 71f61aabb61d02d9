"""Holds what autograd saves for a backward in two parts, so that what its second part does not read can be let go."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import torch
from torch.autograd.graph import _engine_run_backward


def add_gradients(roots: Sequence[Any], gradients: Sequence[Any], leaves: Sequence[Any] = ()) -> None:
    """Add gradients to the ``grad`` of leaves, of all by default; what autograd saved is let go.

    Parameters
    ----------
    roots, gradients
        Gradient edges, and the gradients that arrive there.
    """
    _engine_run_backward(
        tuple(roots), tuple(gradients), False, False, tuple(leaves), allow_unreachable=True, accumulate_grad=True
    )


def gradients_at(roots: Sequence[Any], gradients: Sequence[Any], places: Sequence[Any]) -> tuple[Any, ...]:
    """Return the gradients that arrive at leaves and gradient edges, None where none does; the graph stays."""
    found: tuple[Any, ...] = _engine_run_backward(
        tuple(roots), tuple(gradients), True, False, tuple(places), allow_unreachable=True, accumulate_grad=False
    )
    return found


def own(weights: Sequence[Any], others: Iterable[Any]) -> None:
    """Have weights that got their first gradient hold it apart from other tensors, and from each other.

    autograd takes over as a weight's ``grad`` what it computed, and adds to it in place later. Where that is a view, of
    the gradient that goes to another stage, say, that would change too.
    """
    taken = set(map(_storage, others)) if weights else set()
    for weight in weights:
        place = _storage(weight.grad)
        if place and place in taken:
            weight.grad = weight.grad.clone()
        taken.add(place)


def _storage(tensor: Any) -> int:
    """Return where a tensor's numbers lie; 0 where there are none."""
    dense = tensor is not None and tensor.layout is torch.strided
    return int(tensor.untyped_storage().data_ptr()) if dense else 0


_SILENT: Final = "CppFunction", "CopySlices"
"""Types of nodes that do not show what they saved: all functions written in C++, and what is written into a view."""


@lru_cache(maxsize=1024)
def _shows(node_type: Any) -> tuple[str, ...] | None:
    """Return the attributes by which nodes of a type show what they saved; None where they do not show it."""
    if node_type.__name__ in _SILENT:
        return None
    return tuple(name for name in dir(node_type) if name.startswith("_raw_saved_"))


class _HeldTensor:
    """One tensor that autograd saved, with its version at that time."""

    __slots__ = ("tensor", "version")

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor.detach()
        self.version = tensor._version


class Saved:
    """What autograd saved during one forward."""

    def __init__(self) -> None:
        self._held: list[_HeldTensor] = []

    def hooks(self) -> Any:
        """Return a context in which everything that autograd saves is held here."""
        return torch.autograd.graph.saved_tensors_hooks(self._hold, _give)

    def keep_only(self, nodes: Iterable[Any]) -> None:
        """Let go of all that is not saved for one of the nodes; of nothing where one does not show what it saved."""
        kept: set[int] = set()
        for node in nodes:
            shown = _shows(node.__class__)
            if shown is None:
                return
            for attribute in shown:
                found = getattr(node, attribute)
                kept.update(id(each.data) for each in (found if isinstance(found, tuple) else (found,)))
        for held in self._held:
            if id(held) not in kept:
                held.tensor = None
        self._held.clear()

    def _hold(self, tensor: Any) -> _HeldTensor:
        held = _HeldTensor(tensor)
        self._held.append(held)
        return held


def _give(held: _HeldTensor) -> Any:
    if held.tensor is None:
        raise RuntimeError("a tensor that W reads was let go behind I: the function that saved it does not show it")
    if held.tensor._version != held.version:
        raise RuntimeError("a tensor that the backward needs was changed in place")
    return held.tensor
