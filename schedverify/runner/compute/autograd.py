"""What the runner uses of autograd beneath its public functions: calls of its engine, and the tensors that it saves.

What ``torch.autograd.backward`` and ``grad`` do before they call the engine takes, for a small stage, as long as the
engine itself: they make the gradients that are not given, and compare the shapes of the others with their outputs. Here
all are given; boundaries compare their shapes, and the engine does.

Tensors that autograd saves in a forward are kept here, so that those which the second part of a backward does not read
can be freed after its first part. Which node saved which tensor shows in attributes of the nodes (``_raw_saved_...``).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final

import torch
from torch.autograd.graph import _engine_run_backward


def add_gradients(roots: Sequence[Any], gradients: Sequence[Any], leaves: Sequence[Any] = ()) -> None:
    """Add gradients to the ``grad`` of leaves, of all by default; the graph with what it saved is freed.

    Parameters
    ----------
    roots, gradients
        Gradient edges, and the gradients that arrive there.
    """
    _engine_run_backward(
        tuple(roots), tuple(gradients), False, False, tuple(leaves), allow_unreachable=True, accumulate_grad=True
    )


def gradients_at(roots: Sequence[Any], gradients: Sequence[Any], places: Sequence[Any]) -> tuple[Any, ...]:
    """Return the gradients that arrive at leaves and gradient edges, None where none does; the graph is kept."""
    found: tuple[Any, ...] = _engine_run_backward(
        tuple(roots), tuple(gradients), True, False, tuple(places), allow_unreachable=True, accumulate_grad=False
    )
    return found


def separate_gradients(weights: Sequence[Any], others: Iterable[Any]) -> None:
    """Copy the first gradients of weights that share memory with other tensors, or with each other.

    autograd makes the tensor that it computed the weight's ``grad``, and adds to it in place later. Where that is a
    view, such as one of a gradient that goes to another stage, the other tensor would change too.
    """
    taken = set(map(_storage, others)) if weights else set()
    for weight in weights:
        place = _storage(weight.grad)
        if place and place in taken:
            weight.grad = weight.grad.clone()
        taken.add(place)


def _storage(tensor: Any) -> int:
    """Return the address of a tensor's memory; 0 where it has none."""
    dense = tensor is not None and tensor.layout is torch.strided
    return int(tensor.untyped_storage().data_ptr()) if dense else 0


_SILENT: Final = "CppFunction", "CopySlices"
"""Types of nodes without attributes for what they saved: all functions written in C++, and writes into a view."""


@lru_cache(maxsize=1024)
def _saved_attributes(node_type: Any) -> tuple[str, ...] | None:
    """Return the names of the attributes of a node type with saved tensors; None where there are no such attributes."""
    if node_type.__name__ in _SILENT:
        return None
    return tuple(name for name in dir(node_type) if name.startswith("_raw_saved_"))


class _SavedTensor:
    """One tensor that autograd saved, with its version at that time."""

    __slots__ = ("tensor", "version")

    def __init__(self, tensor: Any) -> None:
        self.tensor = tensor.detach()
        self.version = tensor._version


class SavedTensors:
    """The tensors that autograd saved during one forward."""

    def __init__(self) -> None:
        self._tensors: list[_SavedTensor] = []

    def hooks(self) -> Any:
        """Return a context in which autograd saves tensors here."""
        return torch.autograd.graph.saved_tensors_hooks(self._pack, _unpack)

    def keep_only(self, nodes: Iterable[Any]) -> None:
        """Free the tensors that none of some nodes saved; none of them where a node does not show what it saved."""
        needed: set[int] = set()
        for node in nodes:
            shown = _saved_attributes(node.__class__)
            if shown is None:
                return
            for attribute in shown:
                found = getattr(node, attribute)
                needed.update(id(each.data) for each in (found if isinstance(found, tuple) else (found,)))
        for saved in self._tensors:
            if id(saved) not in needed:
                saved.tensor = None
        self._tensors.clear()

    def _pack(self, tensor: Any) -> _SavedTensor:
        saved = _SavedTensor(tensor)
        self._tensors.append(saved)
        return saved


def _unpack(saved: _SavedTensor) -> Any:
    if saved.tensor is None:
        raise RuntimeError("a tensor that W reads was let go behind I: the function that saved it does not show it")
    if saved.tensor._version != saved.version:
        raise RuntimeError("a tensor that the backward needs was changed in place")
    return saved.tensor
