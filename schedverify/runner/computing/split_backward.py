"""The backward of one stage in two parts: I propagates the gradient to the stage's inputs, W makes the weights' of it.

Where the way to a weight leaves the way to the inputs, the graph is cut. I notes the gradients that arrive at the cuts,
and W goes from each cut to its weights only: nothing is computed twice. A weight that hangs on several cuts (it is used
more than once within the stage) would be counted twice by that; it gets its gradient in I.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import torch
from torch.autograd.graph import GradientEdge, get_gradient_edge

from schedverify.runner.computing.saved import Saved


class Cut(NamedTuple):
    """A node of the graph at which W begins, by the outputs that gradients arrive at, and the weights below it."""

    edges: tuple[Any, ...]
    weights: tuple[Any, ...]


class WeightPart(NamedTuple):
    """What is left to do for the weights: from each cut, the gradients that arrived there, and what autograd saved."""

    cuts: tuple[tuple[Cut, tuple[Any, ...]], ...]
    saved: Saved

    def run(self) -> None:
        """Add the gradients of the weights to their ``grad``."""
        for cut, gradients in self.cuts:
            arrived = [(edge, each) for edge, each in zip(cut.edges, gradients, strict=True) if each is not None]
            if arrived:
                edges, each = zip(*arrived, strict=True)
                torch.autograd.backward(edges, each, inputs=cut.weights)


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
    graph = _Graph(roots)
    cuts, several = graph.cuts(inputs)
    edges = [edge for cut in cuts for edge in cut.edges]
    leaves = [*inputs, *several]
    found = torch.autograd.grad(roots, [*leaves, *edges], gradients, retain_graph=True, allow_unused=True)
    for leaf, gradient in zip(leaves, found, strict=False):
        _add(leaf, gradient)
    arrived = iter(found[len(leaves) :])
    weight_part = tuple((cut, tuple(next(arrived) for _ in cut.edges)) for cut in cuts)
    saved.keep_only(graph.below(cuts))
    return WeightPart(weight_part, saved)


def _add(leaf: Any, gradient: Any) -> None:
    if gradient is not None:
        leaf.grad = gradient if leaf.grad is None else leaf.grad.add_(gradient)


class _Graph:
    """The graph below some roots: each node's parents, and the outputs at which gradients arrive."""

    def __init__(self, roots: Iterable[Any]) -> None:
        self.parents: dict[Any, list[Any]] = {}
        self.outputs: dict[Any, set[int]] = {}
        self.through: set[Any] = set()
        for root in roots:
            self.outputs.setdefault(root.node, set()).add(root.output_nr)
        self.roots = list(self.outputs)
        self.parents.update((root, []) for root in self.roots)
        pending = list(self.roots)
        while pending:
            node = pending.pop()
            for child, output in node.next_functions:
                if child is None:
                    continue
                self.outputs.setdefault(child, set()).add(output)
                if child not in self.parents:
                    self.parents[child] = []
                    pending.append(child)
                self.parents[child].append(node)

    def cuts(self, inputs: Sequence[Any]) -> tuple[list[Cut], list[Any]]:
        """Return the cuts, and the weights that hang on several of them."""
        self.through = self._above([*self.roots, *self._seeds(inputs)])
        weights: dict[Any, list[Any]] = {}
        several = []
        entries = {id(each) for each in inputs}
        for node in self.parents:
            leaf = getattr(node, "variable", None)
            if leaf is None or id(leaf) in entries:
                continue
            tops = self._tops(node)
            if len(tops) == 1:
                weights.setdefault(tops.pop(), []).append(leaf)
            else:
                several.append(leaf)
        made = [
            Cut(tuple(GradientEdge(node, output) for output in sorted(self.outputs[node])), tuple(leaves))
            for node, leaves in weights.items()
        ]
        return made, several

    def below(self, cuts: Iterable[Cut]) -> list[Any]:
        """Return the cuts' nodes and those between them and their weights: all that W passes."""
        found = {cut.edges[0].node for cut in cuts}
        pending = list(found)
        while pending:
            for child, _ in pending.pop().next_functions:
                if child is not None and child not in self.through and child not in found:
                    found.add(child)
                    pending.append(child)
        return list(found)

    def _seeds(self, inputs: Sequence[Any]) -> list[Any]:
        """Return where the way to the inputs ends; where no input needs a gradient, the nodes with several children."""
        entries = [node for leaf in inputs if (node := get_gradient_edge(leaf).node) in self.parents]
        return entries or [
            node for node in self.parents if sum(child is not None for child, _ in node.next_functions) > 1
        ]

    def _above(self, seeds: Iterable[Any]) -> set[Any]:
        found = set(seeds)
        pending = list(found)
        while pending:
            for parent in self.parents[pending.pop()]:
                if parent not in found:
                    found.add(parent)
                    pending.append(parent)
        return found

    def _tops(self, leaf: Any) -> set[Any]:
        """Return the nodes on the way to the inputs that a weight hangs on; roots count as such."""
        tops, seen, pending = set(), {leaf}, [leaf]
        while pending:
            node = pending.pop()
            if node in self.through:
                tops.add(node)
                continue
            for parent in self.parents[node]:
                if parent not in seen:
                    seen.add(parent)
                    pending.append(parent)
        return tops
