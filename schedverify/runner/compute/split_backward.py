"""The backward of one stage in two parts: I propagates the gradient to the stage's inputs, W computes the weights'.

The graph that autograd made of the forward is cut where the way to a weight leaves the ways to the inputs. I notes the
gradients that arrive at the cuts, and W goes on from each cut to its weights only, so that nothing is computed twice::

    outputs ... --> (node) --> (cut) --> (node) --> ... inputs       I: along the line; notes what arrives at the cut
                                 |
                                 +--> (node) --> weight              W: down from the cut

A weight below several cuts (it is used more than once within the stage) would be counted twice by that; it gets its
gradient in I. Micro-batches make new nodes, but mostly a graph of the same form: it is cut once for each form.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, NamedTuple

from torch.autograd.graph import GradientEdge

from schedverify.runner.compute.autograd import SavedTensors, add_gradients, gradients_at, separate_gradients


class Form(NamedTuple):
    """A graph without its tensors: nodes are numbered from the roots on, in breadth-first order."""

    links: tuple[tuple[int, ...], ...]
    """By node ``(child, output, child, output, ...)``: its children, and the output of each that the edge leads to."""
    roots: tuple[tuple[int, int], ...]
    """The node and output of each edge at which the backward begins."""
    entries: tuple[int, ...]
    """The inputs of the stage that need a gradient."""
    leaves: tuple[int, ...]
    """The inputs and the weights."""


class BackwardCut(NamedTuple):
    """A node at which W begins, the outputs of it at which gradients arrive, and the weights below it, by number."""

    node: int
    outputs: tuple[int, ...]
    weights: tuple[int, ...]


class BackwardCuts(NamedTuple):
    """All cuts of a graph."""

    cuts: tuple[BackwardCut, ...]
    several: tuple[int, ...]
    """The weights below several cuts."""
    below: tuple[int, ...]
    """The nodes that W passes: the cuts', and those between them and their weights."""


class Graph:
    """The nodes below some roots by number, their form, and the leaves (inputs and weights) by their nodes' numbers.

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
        for node in self.nodes:  # children that are new are appended meanwhile
            edges: list[int] = []
            for child, output in node.next_functions:
                if child is not None:
                    number = numbers.setdefault(child, len(numbers))
                    if number == len(self.nodes):
                        self.nodes.append(child)
                    edges += number, output
            if not edges and (leaf := getattr(node, "variable", None)) is not None:
                self.leaves[len(links)] = leaf
            links.append(tuple(edges))
        given = {id(each) for each in inputs}
        entries = tuple([number for number, leaf in self.leaves.items() if id(leaf) in given])
        ends = tuple([(numbers[root.node], root.output_nr) for root in roots])
        self.form = Form(tuple(links), ends, entries, tuple(self.leaves))


@lru_cache(maxsize=64)
def cuts_of(form: Form) -> BackwardCuts:
    """Return the cuts of a graph: the nodes at which the way to a weight leaves the ways to the inputs.

    Where no input needs a gradient, the ways to the nodes with several children are taken instead.
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
    weights_below: dict[int, list[int]] = {}
    several = []
    for leaf in sorted(set(form.leaves) - set(form.entries)):
        tops = _reached([leaf], parents, through) & through
        if len(tops) == 1:
            weights_below.setdefault(tops.pop(), []).append(leaf)
        else:
            several.append(leaf)
    cuts = tuple(
        BackwardCut(node, tuple(sorted(outputs[node])), tuple(leaves)) for node, leaves in weights_below.items()
    )
    below = _reached(
        [child for node in weights_below for child in children[node] if child not in through], children, through
    )
    return BackwardCuts(cuts, tuple(several), tuple(sorted(below - through | set(weights_below))))


def _reached(starts: Iterable[int], steps: Sequence[Sequence[int]], ends: Container[int] = ()) -> set[int]:
    """Return the nodes that can be reached from some starts, starts included; no step leads on from ``ends``."""
    found = set(starts)
    pending = list(found)
    while pending:
        node = pending.pop()
        further = [] if node in ends else [each for each in steps[node] if each not in found]
        found.update(further)
        pending += further
    return found


class WeightTask(NamedTuple):
    """What W has to do below one cut."""

    arrived: tuple[tuple[Any, Any], ...]
    """Pairs of a gradient edge and the gradient that arrived there in I, None where none did."""
    weights: tuple[Any, ...]


class WeightPart(NamedTuple):
    """What W has to do for one micro-batch, and the tensors that autograd saved for it."""

    tasks: tuple[WeightTask, ...]
    saved: SavedTensors

    def run(self) -> None:
        """Add the gradients of the weights to their ``grad``."""
        for pairs, weights in self.tasks:
            arrived = [pair for pair in pairs if pair[1] is not None]
            if arrived:
                edges, gradients = zip(*arrived, strict=True)
                fresh = [weight for weight in weights if weight.grad is None]
                add_gradients(edges, gradients, weights)
                separate_gradients(fresh, gradients)


def input_part(
    roots: Sequence[Any], gradients: Sequence[Any], inputs: Sequence[Any], saved: SavedTensors
) -> WeightPart:
    """Run I and return what is left for W.

    Parameters
    ----------
    roots, gradients
        The gradient edges of a stage's outputs, and the gradients that arrive there.
    inputs
        The stage's inputs that need a gradient: leaves, whose ``grad`` is set.
    saved
        The tensors that autograd saved in the stage's forward; those that W does not read are freed.
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
        WeightTask(tuple(islice(arrived, len(cut.outputs))), tuple(graph.leaves[number] for number in cut.weights))
        for cut in where.cuts
    ]
    saved.keep_only([graph.nodes[number] for number in where.below])
    return WeightPart(tuple(parts), saved)


def _add(weight: Any, gradient: Any) -> None:
    """Add to a weight's gradient a tensor that may be another weight's gradient too, or that of an input."""
    if gradient is not None:
        weight.grad = gradient.clone() if weight.grad is None else weight.grad.add_(gradient)
