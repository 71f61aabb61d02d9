"""A networkx graph of stages makes a problem, and its faults are told by node and edge."""

from __future__ import annotations

from typing import Any

import networkx as nx
import pytest
from hypothesis import HealthCheck, given, settings

from schedverify.core.errors import InputError
from schedverify.core.problem import Boundary, Problem
from support.strategies import problems

BY_STAGE = (
    "forward", "backward", "backward_input", "backward_weight", "bytes", "activation", "weight_stash", "recompute",
    "boundary", "in_flight_stage",
)  # fmt: skip


def two_towers() -> nx.DiGraph:
    graph = nx.DiGraph()
    graph.add_node("text", rank=2, forward=2, backward=4)
    graph.add_node("image", rank=0, forward=3, backward=6)
    graph.add_node("both", rank=[1, 3], forward=4, backward=8)
    graph.add_edge("image", "both")
    graph.add_edge("text", "both", shape=[4, 8], dtype="float32", bytes="1 KiB")
    return graph


def told(graph: Any, **keys: Any) -> list[str]:
    with pytest.raises(InputError) as caught:
        Problem.from_graph(graph, **{"microbatches": 4} | keys)
    return [str(fault) for fault in caught.value.faults]


def test_nodes_are_stages_in_the_graph_s_order() -> None:
    problem = Problem.from_graph(two_towers(), microbatches=4, latency=1, capacity="1 GB")
    assert problem == Problem.of(
        {
            "ranks": 4, "microbatches": 4, "stages": 3, "placement": [2, 0, [1, 3]], "edges": [[0, 2], [1, 2]],
            "costs": {"forward": [2, 3, 4], "backward": [4, 6, 8]}, "links": {"latency": 1},
            "memory": {"capacity": 10**9, "unit": "GB"},
            "boundary": [{"from": 0, "to": 2, "shape": [4, 8], "dtype": "float32", "bytes": 1024}],
        }
    )  # fmt: skip


def test_nodes_that_are_numbers_of_stages_are_these_stages() -> None:
    graph = nx.DiGraph([(2, 0), (0, 1)])
    nx.set_node_attributes(graph, {0: 5, 1: 6, 2: 7}, "rank")
    problem = Problem.from_graph(graph, ranks=9, microbatches=1)
    assert (problem.ranks, problem.owner_rank, problem.edges) == (9, (5, 6, 7), ((0, 1), (2, 0)))
    assert (problem.forward, problem.backward) == ((1, 1, 1), (2, 2, 2))
    from_one = nx.DiGraph([(2, 1), (1, 3)])
    nx.set_node_attributes(from_one, 0, "rank")
    assert Problem.from_graph(from_one, microbatches=1).edges == ((0, 1), (1, 2))


def test_parallel_edges_are_several_tensors() -> None:
    graph = nx.MultiDiGraph()
    graph.add_node("a", rank=0)
    graph.add_node("b", rank=1)
    graph.add_edges_from([("a", "b", {"bytes": 3}), ("a", "b", {"bytes": 4})])
    problem = Problem.from_graph(graph, microbatches=1)
    assert problem.edges == ((0, 1),)
    assert problem.boundaries == (Boundary(0, 1, bytes=3), Boundary(0, 1, bytes=4))


@settings(suppress_health_check=[HealthCheck.too_slow], deadline=None)
@given(problems())
def test_a_problem_s_graph_gives_it_back(problem: Problem) -> None:
    """What is by stage goes onto the nodes; with several copies of the model it stays a keyword, as placement does."""
    data = problem.to_dict()
    tables = ("costs", "links", "memory", "limits", "objective")
    keys = {name: value for name, value in data.items() if name not in ("stages", "edges", "boundary", *tables)}
    keys |= {name: value for table in tables for name, value in data[table].items()}
    columns = {name: keys.pop(name) for name in (*BY_STAGE, "placement") if name in keys and problem.replicas == 1}
    graph = nx.MultiDiGraph()
    for stage in range(problem.stages):
        graph.add_node(f"stage {stage}", **{"rank" if k == "placement" else k: v[stage] for k, v in columns.items()})
    rows = [{"bytes": 0, **row} for row in data["boundary"]]
    plain = {tuple(edge) for edge in data["edges"]} - {(row["from"], row["to"]) for row in rows}
    for source, target in sorted(plain):
        graph.add_edge(f"stage {source}", f"stage {target}")
    for row in rows:
        graph.add_edge(f"stage {row.pop('from')}", f"stage {row.pop('to')}", **row)
    again = Problem.from_graph(graph, **keys).to_dict()

    def by_edge(row: dict[str, Any]) -> tuple[int, int]:
        return row["from"], row["to"]

    wanted = data | {"boundary": sorted(({"bytes": 0, **row} for row in data["boundary"]), key=by_edge)}
    assert again | {"boundary": sorted(again["boundary"], key=by_edge)} == wanted


def test_faults_of_values_name_node_and_attribute() -> None:
    graph = two_towers()
    graph.nodes["image"]["rank"] = -1
    graph.nodes["both"]["forward"] = "soon"
    graph.edges["text", "both"]["shape"] = [4, 0]
    assert told(graph) == [
        "node 'image', rank: rank -1 is absent (ranks are 0 to 3)",
        "node 'both', forward: expected a whole number from 0 to 2^62, found 'soon' (ticks of F)",
        "edge 'text' -> 'both', shape[1]: expected a whole number from 1 to 2^62, found 0 (the shape of the tensor)",
    ]


def test_faults_between_keys_name_nodes() -> None:
    graph = two_towers()
    graph.add_edge("both", "image")
    assert told(graph) == [
        "edges: the stage graph has a cycle: nodes 'image', 'both' are on it or behind it (make it a DAG)"
    ]
    graph = two_towers()
    nx.set_node_attributes(graph, {"text": 1, "image": 1, "both": 7}, "weight_stash")
    assert told(graph) == [
        "memory.weight_stash: 7 B on node 'both' is more than its activation, 1 B (it is a part of the activation)"
    ]
    graph = nx.DiGraph([("a", "a")])
    graph.nodes["a"]["rank"] = 0
    assert told(graph) == ["edge 'a' -> 'a': 0 -> 0 feeds itself (the stage graph is a DAG)"]


def test_attributes_are_known_and_on_all_nodes() -> None:
    graph = two_towers()
    graph.nodes["text"]["forwrd"] = graph.nodes["text"].pop("forward")
    graph.add_node("head", colour="red")
    graph.edges["image", "both"]["weight"] = 3
    found = told(graph)
    assert found[:2] == [
        "node 'text', forwrd: unknown attribute (did you mean 'forward'?)",
        "node 'text', forward: missing (other nodes have it: give it to all or to none)",
    ]
    assert found[2].startswith("node 'head', colour: unknown attribute (known: rank, forward, backward, ")
    assert found[3] == "node 'head', rank: missing (each node has its rank)"
    assert found[-1] == "edge 'image' -> 'both', weight: unknown attribute (known: shape, dtype, bytes)"


def test_a_key_stands_in_one_place() -> None:
    assert told(two_towers(), forward=3, placement=[0, 1, 2], edges=[], stages=3) == [
        "forward: the nodes say it (leave out the keyword or the attribute)",
        "placement: the nodes say it (leave out the keyword or the attribute)",
        "edges: the graph says it (leave the keyword out)",
        "stages: the graph says it (leave the keyword out)",
    ]
    assert told(two_towers(), latancy=3) == ["latancy: unknown keyword (did you mean 'latency'?)"]
    assert told(two_towers(), microbatches=0)[0].startswith("microbatches: expected a whole number from 1")


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (nx.Graph([(0, 1)]), "graph: expected a directed graph, found one whose edges have no direction"),
        ({"a": 1}, "graph: expected a directed graph, found dict"),
        (nx.DiGraph(), "graph: it has no node"),
    ],
)
def test_what_is_no_graph_of_stages_is_refused(graph: Any, message: str) -> None:
    assert told(graph)[0].startswith(message)
