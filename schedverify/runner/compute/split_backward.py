"""The backward of one stage in two parts: I propagates the gradient to the stage's inputs, W computes the weights'.

The graph that autograd made of the forward is cut where the way to a weight leaves the ways to the inputs. I notes the
gradients that arrive at the cuts, and W goes on from each cut to its weights only, so that nothing is computed twice::

    outputs ... --> (node) --> (cut) --> (node) --> ... inputs       I: along the line; notes what arrives at the cut
                                 |
                                 +--> (node) --> weight              W: down from the cut

A weight below several cuts (it is used more than once within the stage) would be counted twice by that; it gets its
gradient in I. The node of a cut runs twice, in I and in W. Of autograd's own nodes each run computes what it is asked
for, and reads what was saved. A function written in Python or C++ computes all of it each time, and may let go of what
it saved or count its runs; hooks may unpack once only, and a checkpoint computes its forward again each time. Weights
behind such nodes get their gradients in I as well. Where nothing is left to W, or a graph cannot be cut at all, I is a
whole backward.

Micro-batches make new nodes, but mostly a graph of the same form: it is cut once for each form.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from functools import lru_cache
from itertools import islice
from typing import Any, Final, NamedTuple

from torch.autograd.function import BackwardCFunction
from torch.autograd.graph import GradientEdge

from schedverify.runner.compute.autograd import (
    add_gradients,
    gradients_at,
    let_go,
    saved_attributes,
    saved_by,
    separate_gradients,
)

_WHOLE: Final = "CompiledFunctionBackward", "CheckpointFunctionBackward"
"""Functions that refuse to run in a part of a backward: of ``torch.compile``, and of reentrant checkpoints."""
_HOOKED: Final = "I is a whole backward, and W does nothing, for hooks that its forward registers"


class GraphForm(NamedTuple):
    """A graph without its tensors: nodes are numbered from the roots on, in breadth-first order."""

    links: tuple[tuple[int, ...], ...]
    """By node ``(child, output, child, output, ...)``: its children, and the output of each that the edge leads to."""
    roots: tuple[tuple[int, int], ...]
    """The node and output of each edge at which the backward begins."""
    entries: tuple[int, ...]
    """The inputs of the stage that need a gradient."""
    leaves: tuple[int, ...]
    """The inputs and the weights."""
    kinds: tuple[Any, ...]
    """By node its type."""
    packed: tuple[int, ...] = ()
    """The nodes for which hooks of the stage's own keep what was saved."""


class BackwardCut(NamedTuple):
    """A node at which W begins, the outputs of it at which gradients arrive, and the weights below it, by number."""

    node: int
    outputs: tuple[int, ...]
    weights: tuple[int, ...]


class BackwardCuts(NamedTuple):
    """All cuts of a graph."""

    cuts: tuple[BackwardCut, ...]
    several: tuple[int, ...]
    """The weights that get their gradients in I."""
    below: tuple[int, ...]
    """The nodes that W passes, the cuts' and those between them and their weights, which show what was saved."""
    above: tuple[int, ...]
    """The other nodes that show what was saved."""
    notice: str
    """What of I and W is not as a schedule has it, and why; empty where nothing is."""


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
        nodes, leaves = list(numbers), dict[int, Any]()
        links: list[tuple[int, ...]] = []
        for node in nodes:  # children that are new are appended meanwhile
            edges: list[int] = []
            for child, output in node.next_functions:
                if child is not None:
                    number = numbers.get(child)
                    if number is None:
                        number = numbers[child] = len(nodes)
                        nodes.append(child)
                    edges += number, output
            if not edges and (leaf := getattr(node, "variable", None)) is not None:
                leaves[len(links)] = leaf
            links.append(tuple(edges))
        given = {id(each) for each in inputs}
        entries = tuple([number for number, leaf in leaves.items() if id(leaf) in given])
        ends = tuple([(numbers[root.node], root.output_nr) for root in roots])
        self.nodes, self.leaves = nodes, leaves
        self.form = GraphForm(tuple(links), ends, entries, tuple(leaves), tuple(map(type, nodes)))


@lru_cache(maxsize=64)
def cuts_of(form: GraphForm) -> BackwardCuts:
    """Return the cuts of a graph: the nodes at which the way to a weight leaves the ways to the inputs.

    Where no input needs a gradient, the ways to the nodes with several children are taken instead.
    """
    if refusing := _names(form, [node for node, kind in enumerate(form.kinds) if kind.__name__ in _WHOLE]):
        return BackwardCuts((), (), (), (), f"I is a whole backward, and W does nothing, for {refusing} in its graph")
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
    hidden = {node for node, kind in enumerate(form.kinds) if saved_attributes(kind) is None}
    in_python = {node for node in through if issubclass(form.kinds[node], BackwardCFunction)}
    weights_below: dict[int, list[int]] = {}
    several, once = [], set[int]()
    for leaf in sorted(set(form.leaves) - set(form.entries)):
        way = _reached([leaf], parents, through)
        tops = way & through
        reasons = way & hidden.union(form.packed) | tops & in_python
        if len(tops) == 1 and not reasons and leaf not in tops:
            weights_below.setdefault(tops.pop(), []).append(leaf)
        else:
            several.append(leaf)
            once |= reasons
    cuts = tuple(
        BackwardCut(node, tuple(sorted(outputs[node])), tuple(leaves)) for node, leaves in weights_below.items()
    )
    below = _reached(
        [child for node in weights_below for child in children[node] if child not in through], children, through
    )
    below = below - through | set(weights_below)
    showing = [node for node, kind in enumerate(form.kinds) if saved_attributes(kind)]
    return BackwardCuts(
        cuts,
        tuple(several),
        tuple(node for node in showing if node in below),
        tuple(node for node in showing if node not in below),
        _notice(form, once, hidden - below if cuts else set()),
    )


def _notice(form: GraphForm, once: Iterable[int], hidden: Iterable[int]) -> str:
    """Return what is not as a schedule has it, by the nodes that run once only, and those that hide what they saved."""
    parts = []
    if names := _names(form, once):
        parts.append(f"I computes gradients of weights too, for {names} in its graph, which may run once only")
    if names := _names(form, hidden):
        parts.append(f"what {names} saved is kept until W")
    return "; ".join(parts)


def _names(form: GraphForm, nodes: Iterable[int]) -> str:
    """Return the names of nodes as text, each once."""
    packed = "a node with saved tensors that hooks packed"
    return ", ".join(sorted({packed if node in form.packed else form.kinds[node].__name__ for node in nodes}))


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
    """What W has to do for one micro-batch."""

    tasks: tuple[WeightTask, ...]
    notice: str = ""
    """As of :class:`BackwardCuts`."""

    def run(self) -> None:
        """Add the gradients of the weights to their ``grad``."""
        for pairs, weights in self.tasks:
            arrived = [pair for pair in pairs if pair[1] is not None]
            if arrived:
                edges, gradients = zip(*arrived, strict=True)
                fresh = [weight for weight in weights if weight.grad is None]
                add_gradients(edges, gradients, weights)
                if fresh:
                    separate_gradients(fresh, gradients)


def input_part(
    roots: Sequence[Any], gradients: Sequence[Any], inputs: Sequence[Any], weights: Sequence[Any], *, hooked: bool
) -> WeightPart:
    """Run I and return what is left for W.

    Parameters
    ----------
    roots, gradients
        The gradient edges of a stage's outputs, and the gradients that arrive there.
    inputs
        The stage's inputs that need a gradient: leaves, whose ``grad`` is set.
    weights
        The stage's weights.
    hooked
        Whether hooks were registered in the stage's forward: those on tensors would run in I and again in W.
    """
    if not roots:
        return WeightPart(())
    graph = Graph(roots, inputs)
    where = cuts_of(graph.form)
    if packed := [node for node in where.below if any(each.unpack_hook for each in saved_by(graph.nodes[node]))]:
        where = cuts_of(graph.form._replace(packed=tuple(sorted(packed))))
    if hooked or not where.cuts:
        whole_backward(roots, gradients, inputs, weights)
        return WeightPart((), where.notice or (_HOOKED if hooked else ""))
    edges = [GradientEdge(graph.nodes[cut.node], output) for cut in where.cuts for output in cut.outputs]
    several = [graph.leaves[number] for number in where.several]
    found = iter(gradients_at(roots, gradients, [*inputs, *several, *edges]))
    for leaf in inputs:
        leaf.grad = next(found)
    for leaf in several:
        _add(leaf, next(found))
    arrived = zip(edges, found, strict=True)
    parts = [
        WeightTask(tuple(islice(arrived, len(cut.outputs))), tuple([graph.leaves[number] for number in cut.weights]))
        for cut in where.cuts
    ]
    let_go([graph.nodes[number] for number in where.above])
    return WeightPart(tuple(parts), where.notice)


def whole_backward(
    roots: Sequence[Any], gradients: Sequence[Any], inputs: Sequence[Any], weights: Sequence[Any]
) -> None:
    """Run a backward in one part: the gradients of inputs and weights are added to their ``grad``."""
    fresh = [weight for weight in weights if weight.grad is None]
    add_gradients(roots, gradients)
    if fresh:
        separate_gradients(fresh, [*gradients, *(each.grad for each in inputs)])


def _add(weight: Any, gradient: Any) -> None:
    """Add to a weight's gradient a tensor that may be another weight's gradient too, or that of an input."""
    if gradient is not None:
        weight.grad = gradient.clone() if weight.grad is None else weight.grad.add_(gradient)
        for hook in (weight._post_accumulate_grad_hooks or {}).values():
            hook(weight)
