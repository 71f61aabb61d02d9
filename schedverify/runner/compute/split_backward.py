"""The backward of one stage in two parts: I propagates the gradient to the stage's inputs, W makes the weights' of it.

Where the way to a weight leaves the way to the inputs, the graph is cut. I notes the gradients that arrive at the cuts,
and W goes from each cut to its weights only: nothing is computed twice. A weight that hangs on several cuts (it is used
more than once within the stage) would be counted twice by that; it gets its gradient in I.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

from torch.autograd.graph import GradientEdge

from schedverify.runner.compute.autograd import Saved, add_gradients, gradients_at, own


class Form(NamedTuple):
    """How nodes hang together; nodes are numbered from the roots on."""

    links: tuple[tuple[int, ...], ...]
    """By node, each child and which output of the child it reads, one after the other."""
    roots: tuple[tuple[int, int], ...]
    """Nodes and outputs at which the backward begins."""
    entries: tuple[int, ...]
    """The inputs of the stage that need a gradient."""
    leaves: tuple[int, ...]
    """The inputs and the weights."""


class BackwardCut(NamedTuple):
    """A node at which W begins, the outputs that gradients arrive at, and the weights below it."""

    node: int
    outputs: tuple[int, ...]
    weights: tuple[int, ...]


class BackwardCuts(NamedTuple):
    """Where a graph is cut."""

    cuts: tuple[BackwardCut, ...]
    several: tuple[int, ...]
    """The weights that hang on several cuts."""
    below: tuple[int, ...]
    """The cuts' nodes and those between them and their weights: all that W passes."""


class Graph:
    """The nodes below some roots, their form, and the leaves by their nodes' numbers.

    Parameters
    ----------
    roots
        Gradient edges.
    inputs
        The stage's inputs that need a gradient.
    """

    def __init__(self, roots: Sequence[Any], inputs: Sequence[Any]) -> None:
        numbers: dict[Any, int] = {}
        for root in roots:
            numbers.setdefault(root.node, len(numbers))
        self.nodes = list(numbers)
        self.leaves: dict[int, Any] = {}
        links: list[tuple[int, ...]] = []
        for node in self.nodes:  # which grows
            own: list[int] = []
            for child, output in node.next_functions:
                if child is not None:
                    number = numbers.setdefault(child, len(numbers))
                    if number == len(self.nodes):
                        self.nodes.append(child)
                    own += number, output
            if not own and (leaf := getattr(node, "variable", None)) is not None:
                self.leaves[len(links)] = leaf
            links.append(tuple(own))
        given = {id(each) for each in inputs}
        entries = tuple([number for number, leaf in self.leaves.items() if id(leaf) in given])
        ends = tuple([(numbers[root.node], root.output_nr) for root in roots])
        self.form = Form(tuple(links), ends, entries, tuple(self.leaves))


@lru_cache(maxsize=64)
def cuts_of(form: Form) -> BackwardCuts:
    """Return where a graph is cut: where the way to a weight leaves the way to the inputs.

    Where no input needs a gradient, the ways to the nodes with several children count as such.
    """
    children = [links[::2] for links in form.links]
    parents: list[list[int]] = [[] for _ in children]
    outputs: list[set[int]] = [set() for _ in children]
    for node, links in enumerate(form.links):
        for child, output in zip(links[::2], links[1::2], strict=True):
            parents[child].append(node)
            outputs[child].add(output)
    for node, output in form.roots:
        outputs[node].add(output)
    ends = form.entries or [node for node, below in enumerate(children) if len(below) > 1]
    through = _reached([*ends, *(node for node, _ in form.roots)], parents)
    hung: dict[int, list[int]] = {}
    several = []
    for leaf in sorted(set(form.leaves) - set(form.entries)):
        tops = _reached([leaf], parents, through) & through
        if len(tops) == 1:
            hung.setdefault(tops.pop(), []).append(leaf)
        else:
            several.append(leaf)
    cuts = tuple(BackwardCut(node, tuple(sorted(outputs[node])), tuple(leaves)) for node, leaves in hung.items())
    below = _reached([child for node in hung for child in children[node] if child not in through], children, through)
    return BackwardCuts(cuts, tuple(several), tuple(sorted(below - through | set(hung))))


def _reached(starts: Iterable[int], steps: Sequence[Sequence[int]], ends: Container[int] = ()) -> set[int]:
    """Return the nodes that steps from some starts lead to, with the starts; from ``ends`` no step leads on."""
    found = set(starts)
    pending = list(found)
    while pending:
        node = pending.pop()
        further = [] if node in ends else [each for each in steps[node] if each not in found]
        found.update(further)
        pending += further
    return found


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
