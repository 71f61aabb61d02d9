"""Order, cycles, longest paths and groups of random graphs are those that networkx finds."""

from __future__ import annotations

import networkx as nx
import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from schedverify.simulator.csr_graph import LARGE, Precedence, is_large, merged

COUNT = 10
NODES = st.integers(0, COUNT - 1)
EDGES = st.lists(st.tuples(NODES, NODES, st.integers(0, 5)), max_size=25)
Edge = tuple[int, int, int]


def graph_of(edges: list[Edge]) -> tuple[Precedence, np.ndarray]:
    before, after, lag = np.array(edges, dtype=np.int64).reshape(-1, 3).T.copy()
    return Precedence(COUNT, before, after), lag


def behind_cycles(edges: list[Edge]) -> set[int]:
    graph = nx.DiGraph((before, after) for before, after, _ in edges)
    cyclic = [group for group in nx.strongly_connected_components(graph)
              if len(group) > 1 or any(graph.has_edge(node, node) for node in group)]  # fmt: skip
    return {node for group in cyclic for start in group for node in (start, *nx.descendants(graph, start))}


@given(EDGES)
@settings(deadline=None)
def test_what_is_on_a_cycle_or_behind_one_never_happens(edges: list[Edge]) -> None:
    graph, _ = graph_of(edges)
    assert set(np.flatnonzero(graph.blocked).tolist()) == behind_cycles(edges)


@given(EDGES)
@settings(deadline=None)
def test_all_that_can_happen_stands_behind_what_it_waits_for(edges: list[Edge]) -> None:
    graph, _ = graph_of(edges)
    place = {node: index for index, node in enumerate(graph.order.tolist())}
    assert set(place) == set(range(COUNT)) - behind_cycles(edges)
    assert all(place[before] < place[after] for before, after, _ in edges if after in place)


@given(EDGES)
@settings(deadline=None)
def test_lengths_are_those_of_the_longest_paths(edges: list[Edge]) -> None:
    forward = [(min(a, b), max(a, b), lag) for a, b, lag in edges if a != b]
    graph, lag = graph_of(forward)
    best = [0] * COUNT
    for node in range(COUNT):
        best[node] = max((best[before] + ticks for before, after, ticks in forward if after == node), default=0)
    assert graph.longest_paths(lag, {})[0].tolist() == best


@given(EDGES, st.data())
@settings(deadline=None)
def test_a_restricted_graph_has_the_chosen_edges_alone(edges: list[Edge], data: st.DataObject) -> None:
    graph, _ = graph_of(edges)
    _ = graph.order, graph.successors
    chosen = data.draw(st.lists(st.booleans(), min_size=len(edges), max_size=len(edges)))
    some = [edge for edge, is_chosen in zip(edges, chosen, strict=True) if is_chosen]
    part = graph.restricted(np.array(chosen, dtype=bool))
    assert set(np.flatnonzero(part.blocked).tolist()) == behind_cycles(some)
    assert set(np.flatnonzero(graph.blocked).tolist()) == behind_cycles(edges)


@given(st.lists(st.tuples(NODES, NODES), max_size=12))
@settings(deadline=None)
def test_each_node_has_the_lowest_of_its_group(pairs: list[tuple[int, int]]) -> None:
    graph = nx.Graph(pairs)
    graph.add_nodes_from(range(COUNT))
    lowest = {node: min(group) for group in nx.connected_components(graph) for node in group}
    assert merged(COUNT, pairs).tolist() == [lowest[node] for node in range(COUNT)]


def test_the_edges_of_a_node_stand_side_by_side() -> None:
    begins, targets = Precedence(4, np.array([0, 2, 0, 1]), np.array([1, 1, 3, 3])).successors
    assert begins.tolist() == [0, 2, 3, 4, 4]
    assert targets.tolist() == [1, 3, 3, 1]


def test_long_chains_are_merged_without_recursion() -> None:
    assert set(merged(5000, [(node + 1, node) for node in range(4999)]).tolist()) == {0}


def test_what_is_large() -> None:
    assert [is_large(size) for size in (0, LARGE - 1, LARGE)] == [False, False, True]
