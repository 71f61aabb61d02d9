"""What the runner uses of autograd beneath its public functions: calls of its engine, and the tensors that it saves.

What ``torch.autograd.backward`` and ``grad`` do before they call the engine takes, for a small stage, as long as the
engine itself: they make the gradients that are not given, and compare the shapes of the others with their outputs. Here
all are given; boundaries compare their shapes, and the engine does.

What autograd saved for a node shows in attributes of the node (``_raw_saved_...``); behind the first part of a backward
the tensors of nodes that the second part does not pass are freed there.
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
    taken = set(map(storage_of, others))
    for weight in weights:
        place = storage_of(weight.grad)
        if place and place in taken:
            weight.grad = weight.grad.clone()
        taken.add(place)


def storage_of(tensor: Any) -> int:
    """Return the address of a tensor's memory; 0 where it has none."""
    dense = tensor is not None and tensor.layout is torch.strided
    return int(tensor.untyped_storage().data_ptr()) if dense else 0


_SILENT: Final = "CppFunction", "CopySlices"
"""Types of nodes without attributes for what they saved: all functions written in C++, and writes into a view."""


@lru_cache(maxsize=1024)
def saved_attributes(node_type: Any) -> tuple[str, ...] | None:
    """Return the names of the attributes of a node type with saved tensors; None where there are no such attributes."""
    if node_type.__name__ in _SILENT:
        return None
    return tuple(name for name in dir(node_type) if name.startswith("_raw_saved_"))


def saved_by(node: Any) -> list[Any]:
    """Return what a node shows of the tensors that autograd saved for it."""
    found: list[Any] = []
    for attribute in saved_attributes(node.__class__) or ():
        saved = getattr(node, attribute)
        found += saved if isinstance(saved, tuple) else (saved,)
    return found


def let_go(nodes: Iterable[Any]) -> None:
    """Free the tensors that autograd saved for nodes which will not run again, but for those that hooks packed.

    Scalars stay: the number in ``x * 0.5`` is saved as one, and takes no hooks while a dispatch mode counts bytes.
    """
    for node in nodes:
        for saved in saved_by(node):
            if saved.unpack_hook is None and saved.data is not None and saved.data.dim():
                saved.register_hooks(_nothing, _gone)


def _nothing(_: Any) -> None:
    return None


def _gone(_: None) -> Any:
    raise RuntimeError("a tensor that autograd saved was let go behind I, and is read again")
