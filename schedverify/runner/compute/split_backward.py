"""The backward of one stage in two parts: I propagates the gradient to the stage's inputs, W makes the weights' of it.

Where the way to a weight leaves the way to the inputs, the graph is cut. I notes the gradients that arrive at the cuts,
and W goes from each cut to its weights only: nothing is computed twice. A weight that hangs on several cuts (it is used
more than once within the stage) would be counted twice by that; it gets its gradient in I.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice
from typing import Any, NamedTuple

from torch.autograd.graph import GradientEdge

from schedverify.runner.compute.engine import add_gradients, gradients_at, own
from schedverify.runner.compute.graph import Graph, cuts_of
from schedverify.runner.compute.saved import Saved


class Below(NamedTuple):
    """What is left to do below one cut."""

    arrived: tuple[tuple[Any, Any], ...]
    """Gradient edges, and the gradients that arrived there, None where none did."""
    weights: tuple[Any, ...]


class WeightPart(NamedTuple):
    """What is left to do for the weights, and what autograd saved for it."""

    cuts: tuple[Below, ...]
    saved: Saved

    def run(self) -> None:
        """Add the gradients of the weights to their ``grad``."""
        for pairs, weights in self.cuts:
            arrived = [pair for pair in pairs if pair[1] is not None]
            if arrived:
                edges, gradients = zip(*arrived, strict=True)
                fresh = [weight for weight in weights if weight.grad is None]
                add_gradients(edges, gradients, weights)
                own(fresh, gradients)


def input_part(roots: Sequence[Any], gradients: Sequence[Any], inputs: Sequence[Any], saved: Saved) -> WeightPart:
    """Run the input part of a backward and return the weight part.

    Parameters
    ----------
    roots, gradients
        The gradient edges of a stage's outputs, and the gradients that arrive there.
    inputs
        The stage's inputs that need a gradient: leaves, whose ``grad`` is set.
    saved
        What autograd saved in the stage's forward.
    """
    if not roots:
        return WeightPart((), saved)
    graph = Graph(roots, inputs)
    where = cuts_of(graph.form)
    edges = [GradientEdge(graph.nodes[cut.node], output) for cut in where.cuts for output in cut.outputs]
    several = [graph.leaves[number] for number in where.several]
    found = iter(gradients_at(roots, gradients, [*inputs, *several, *edges]))
    for leaf in inputs:
        leaf.grad = next(found)
    for leaf in several:
        _add(leaf, next(found))
    arrived = zip(edges, found, strict=True)
    parts = [
        Below(tuple(islice(arrived, len(cut.outputs))), tuple(graph.leaves[number] for number in cut.weights))
        for cut in where.cuts
    ]
    saved.keep_only([graph.nodes[number] for number in where.below])
    return WeightPart(tuple(parts), saved)


def _add(weight: Any, gradient: Any) -> None:
    """Add to a weight's gradient; the one that is given may be another weight's too, or on its way to another stage."""
    if gradient is not None:
        weight.grad = gradient.clone() if weight.grad is None else weight.grad.add_(gradient)
