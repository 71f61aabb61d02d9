"""Calls of autograd's engine, without what ``torch.autograd.backward`` and ``grad`` do before it.

For a small stage that takes as long as the engine. It serves to make gradients that are not given and to hold the given
ones against their outputs; here all are given, and boundaries as well as the engine look at their form.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

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
