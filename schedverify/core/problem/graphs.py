"""A graph of stages, such as a networkx.DiGraph, as keywords of a problem; faults told by its nodes and edges."""

from __future__ import annotations

import re
from collections.abc import Hashable, Iterable, Iterator, Mapping
from typing import Any, Final, Protocol

from schedverify.core.errors import Fault, InputError, clean, nearest
from schedverify.core.problem.keys import KEYS, names

_NODE_KEYS: Final = ("rank", *(key.name for key in KEYS if key.shape.endswith(" by stage")))
_EDGE_KEYS: Final = tuple(name for name in names("boundary") if name not in ("from", "to"))
_OF_GRAPH: Final = ("stages", "virtual", "edges", "boundaries")
"""Keywords that say what the graph itself says."""
_INDEXED: Final = re.compile(r"(?:\w+\.)?(\w+)\[(\d+)\]\.?(.*)")
"""The key of a fault in a list: the list's name, the index, and what follows it."""


class DirectedGraph(Protocol):
    """What is read of a ``networkx.DiGraph``: its nodes and edges, each with its attributes."""

    @property
    def nodes(self) -> Mapping[Any, Mapping[str, Any]]:
        """By node, its attributes."""

    @property
    def edges(self) -> Mapping[Any, Mapping[str, Any]]:
        """By edge, which begins with its first and second node, its attributes."""

    def is_directed(self) -> bool:
        """Return whether edges have a direction."""


def keywords_of(graph: DirectedGraph, keys: Mapping[str, object]) -> dict[str, Any]:
    """Return the keywords that stand for a graph, together with the other keys of the problem.

    Raises
    ------
    InputError
        If it is no directed graph, if a node or an edge has an attribute that is no key, if a node lacks one that
        others have, or if a key repeats what the graph says.
    """
    _check_kind(graph)
    nodes = _by_stage(graph)
    given = [name for name in _NODE_KEYS if any(name in graph.nodes[node] for node in nodes)]
    if "placement" not in keys and "rank" not in given:
        given.insert(0, "rank")
    if faults := [*_repeated(given, keys), *_wrong_nodes(graph, given), *_wrong_edges(graph)]:
        raise InputError(faults)
    stage = {node: number for number, node in enumerate(nodes)}
    columns = {name: [graph.nodes[node][name] for node in nodes] for name in given}
    if "rank" in columns:
        columns["placement"] = columns.pop("rank")
    edges = [(stage[first], stage[second]) for first, second in _pairs(graph)]
    boundaries = [{"from": stage[edge[0]], "to": stage[edge[1]], **given_of} for edge, given_of in _described(graph)]
    ranks = 1 + max((rank for entry in columns.get("placement", ()) for rank in _integers(entry)), default=0)
    return {"ranks": ranks, **columns, "stages": len(nodes), "edges": edges, "boundaries": boundaries, **keys}


def faults_by_node(faults: Iterable[Fault], graph: DirectedGraph, keys: Mapping[str, object]) -> list[Fault]:
    """Return faults of the keywords of a graph with its nodes and edges in place of numbers of stages and rows."""
    nodes = _by_stage(graph)
    edges = {"edges": [*_pairs(graph)], "boundary": [edge for edge, _ in _described(graph)]}

    def place(key: str) -> str:
        match = _INDEXED.fullmatch(key)
        if match is None or match[1] in keys:
            return key
        name, index, rest = match[1], int(match[2]), match[3]
        if name in edges:
            return _edge(edges[name][index]) + (f", {rest}" if rest and name == "boundary" else "")
        name = "rank" if name == "placement" else name
        return f"{_node(nodes[index])}, {name}" if name in _NODE_KEYS else key

    def message(text: str) -> str:
        text = re.sub(r"stages \[([\d, ]+)\]", lambda m: _listed(nodes[int(i)] for i in m[1].split(", ")), text)
        return re.sub(r"stage (\d+)\b(?! is absent)", lambda m: _node(nodes[int(m[1]) % len(nodes)]), text)

    return [fault._replace(key=place(fault.key), message=message(fault.message)) for fault in faults]


def _check_kind(graph: Any) -> None:
    hint = "make it a networkx.DiGraph"
    if not all(hasattr(graph, name) for name in ("nodes", "edges", "is_directed")):
        raise InputError(Fault("graph", f"expected a directed graph, found {clean(type(graph).__name__)}", hint))
    if not graph.is_directed():
        raise InputError(Fault("graph", "expected a directed graph, found one whose edges have no direction", hint))
    if not graph.nodes:
        raise InputError(Fault("graph", "it has no node", "each stage is one"))


def _by_stage(graph: DirectedGraph) -> list[Hashable]:
    """Return the nodes in the order of their stages."""
    nodes = list(graph.nodes)
    return list(range(len(nodes))) if set(nodes) == set(range(len(nodes))) else nodes


def _pairs(graph: DirectedGraph) -> dict[tuple[Hashable, Hashable], None]:
    """Return the different edges as pairs of nodes, in the graph's order; a multigraph may have several of one."""
    return dict.fromkeys((edge[0], edge[1]) for edge in graph.edges)


def _described(graph: DirectedGraph) -> list[tuple[Any, Mapping[str, Any]]]:
    """Return the edges that have attributes, with these."""
    return [(edge, attributes) for edge, attributes in graph.edges.items() if attributes]


def _repeated(given: list[str], keys: Mapping[str, object]) -> Iterator[Fault]:
    for name in keys:
        if name in _OF_GRAPH:
            yield Fault(name, "the graph says it", "leave the keyword out")
        elif name in given or (name == "placement" and "rank" in given):
            yield Fault(name, "the nodes say it", "leave out the keyword or the attribute")


def _wrong_nodes(graph: DirectedGraph, needed: list[str]) -> Iterator[Fault]:
    for node, attributes in graph.nodes.items():
        yield from _unknown(_node(node), attributes, _NODE_KEYS)
        for name in needed:
            if name not in attributes:
                hint = "each node has its rank" if name == "rank" else "other nodes have it: give it to all or to none"
                yield Fault(f"{_node(node)}, {name}", "missing", hint)


def _wrong_edges(graph: DirectedGraph) -> Iterator[Fault]:
    for edge, attributes in graph.edges.items():
        yield from _unknown(_edge(edge), attributes, _EDGE_KEYS)


def _unknown(place: str, attributes: Mapping[str, Any], known: tuple[str, ...]) -> Iterator[Fault]:
    for name in attributes:
        if name not in known:
            hint = nearest(str(name), known) or f"known: {', '.join(known)}"
            yield Fault(f"{place}, {clean(str(name))}", "unknown attribute", hint)


def _integers(entry: Any) -> list[int]:
    members = entry if isinstance(entry, list | tuple) else [entry]
    return [member for member in members if isinstance(member, int)]


def _node(node: Hashable) -> str:
    return f"node {clean(repr(node))}"


def _listed(nodes: Iterable[Hashable]) -> str:
    return f"nodes {', '.join(clean(repr(node)) for node in nodes)}"


def _edge(edge: tuple[Any, ...]) -> str:
    return f"edge {clean(repr(edge[0]))} -> {clean(repr(edge[1]))}"
