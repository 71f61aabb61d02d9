"""The graph that autograd made of a stage's forward, by numbers, and where it is cut for a backward in two parts.

Micro-batches make new nodes, but mostly a graph of the same form: where it is cut is found once for each form.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple


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
