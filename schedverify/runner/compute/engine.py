"""Calls of autograd's engine, without what ``torch.autograd.backward`` and ``grad`` do before it.

What these do first takes, for a small stage, as long as the engine itself: they make the gradients that are not given,
and hold the others against their outputs. Here all are given; boundaries look at their form, and the engine does.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

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
