"""The graph of a lowered schedule: longest paths are the simulated starts, slack is what an edge has to spare."""

from __future__ import annotations

import random
from itertools import pairwise

import networkx as nx
import pytest

import schedverify as sv

COSTS = {"forward": 2, "backward": 4, "latency": 1, "bytes": 3, "bandwidth": 1}
PROBLEMS = {
    "1f1b": sv.Problem.chain(ranks=3, microbatches=4, **COSTS),
    "zb-h1": sv.Problem.chain(ranks=3, microbatches=4, form="split", forward=2, backward_input=2, backward_weight=1,
                              latency=2, bytes=1, bandwidth=1),
    "interleaved-1f1b": sv.Problem.chain(ranks=2, microbatches=4, virtual=2, **COSTS),
}  # fmt: skip
TWO = sv.Problem.chain(ranks=2, microbatches=2, form="inference", forward=10, bytes=4, bandwidth=1)
ORDER = sv.Schedule.parse("0F0 0SEND_F0 0F1 0SEND_F1\n1RECV_F0 1F0 1RECV_F1 1F1")


def shuffled(schedule: sv.Schedule, problem: sv.Problem, rng: random.Random) -> sv.Schedule:
    """Return a lowered schedule with some sends and receives moved by a step, and some joined to groups."""
    rows = schedule.strings()
    for row in rows:
        for _ in range(3):
            index = rng.randrange(len(row) - 1)
            if "SEND" in row[index] or "RECV" in row[index]:
                row[index], row[index + 1] = row[index + 1], row[index]
            if all("_" in step and "[" not in step for step in row[index : index + 2]):
                row[index : index + 2] = [f"[{';'.join(row[index : index + 2])}]"]
    return sv.Schedule.of(rows)


@pytest.mark.parametrize("discipline", list(sv.Discipline))
@pytest.mark.parametrize("family", PROBLEMS)
def test_longest_paths_are_the_simulated_times(family: str, discipline: sv.Discipline) -> None:
    problem, rng, seen = PROBLEMS[family], random.Random(f"{family} {discipline}"), 0
    order = sv.lower(sv.generate(family, problem), problem)
    for number in range(12):
        schedule, eager = shuffled(order, problem, rng) if number else order, rng.choice((0, 3))
        try:
            timeline = sv.simulate(schedule, problem, discipline=discipline, eager_bytes=eager)
        except sv.ScheduleError:
            with pytest.raises(sv.ScheduleError):
                sv.dependency_graph(problem, schedule, discipline=discipline, eager_bytes=eager)
            continue
        seen += 1
        graph = sv.dependency_graph(problem, schedule, discipline=discipline, eager_bytes=eager)
        check(graph, timeline)
    assert seen > 1


def check(graph: nx.DiGraph, timeline: sv.Timeline) -> None:
    longest: dict[sv.LoweredEvent, int] = {}
    for node in nx.topological_sort(graph):
        longest[node] = max((longest[tail] + graph.edges[tail, node]["lag"] for tail in graph.pred[node]), default=0)
    assert longest == dict(graph.nodes(data="start"))
    for tail, head, edge in graph.edges(data=True):
        assert edge["slack"] == longest[head] - longest[tail] - edge["lag"] >= 0
    computes = {node: data for node, data in graph.nodes(data=True) if node.kind == "compute"}
    assert max(data["start"] + data["duration"] for data in computes.values()) == timeline.makespan
    times = {(row["rank"], row["position"]): (row["start"], row["end"]) for row in timeline.rows()}
    for node, data in computes.items():
        assert all(times[place][0] == data["start"] for place in node.places)
    path = sv.critical_path(graph)
    edges = [graph.edges[edge] for edge in pairwise(path)]
    assert {edge["slack"] for edge in edges} <= {0}
    assert sum(edge["lag"] for edge in edges) + graph.nodes[path[-1]]["duration"] == timeline.makespan


def test_what_stands_on_nodes_and_edges() -> None:
    graph = sv.dependency_graph(TWO, ORDER, discipline="rank")
    names = {str(node): node for node in graph}
    assert list(names) == ["compute 0F0", "compute 0F1", "compute 1F0", "compute 1F1", "transfer 0SEND_F0 1RECV_F0",
                           "transfer 0SEND_F1 1RECV_F1"]  # fmt: skip
    assert names["transfer 0SEND_F0 1RECV_F0"].places == ((0, 1), (1, 0))
    assert graph.nodes[names["transfer 0SEND_F0 1RECV_F0"]] == {"start": 10, "duration": 4}
    edges = {(str(tail), str(head)): data for tail, head, data in graph.edges(data=True)}
    assert edges["compute 0F0", "compute 0F1"] == {"why": "rank order", "lag": 10, "slack": 0}
    assert edges["transfer 0SEND_F0 1RECV_F0", "compute 1F0"] == {"why": "received", "lag": 4, "slack": 0}
    assert edges["transfer 0SEND_F0 1RECV_F0", "transfer 0SEND_F1 1RECV_F1"] == {"why": "queue", "lag": 4, "slack": 10}
    assert edges["compute 0F1", "transfer 0SEND_F1 1RECV_F1"]["why"] == "input"
    assert graph.graph == {"discipline": "rank", "eager_bytes": 0}


def test_what_goes_alone_has_a_node_for_each_end() -> None:
    graph = sv.dependency_graph(TWO, ORDER, discipline="buffered")
    kinds = [node.kind for node in graph]
    assert (kinds.count("send"), kinds.count("receive"), kinds.count("transfer")) == (2, 2, 0)
    assert {edge["why"] for _, _, edge in graph.edges(data=True)} >= {"sent", "received", "input"}


def test_groups_end_where_all_of_their_members_do() -> None:
    order = "0F0 0F1 [0SEND_F0;0SEND_F1] 0F2 0SEND_F2\n[1RECV_F0;1RECV_F1] 1F0 1F1 1RECV_F2 1F2"
    problem = sv.Problem.chain(ranks=2, microbatches=3, form="inference", forward=10, bytes=4, bandwidth=1)
    for discipline, kinds in (("rank", {"free"}), ("block", {"free", "complete"})):
        graph = sv.dependency_graph(problem, sv.Schedule.parse(order), discipline=discipline)
        ends = [node for node in graph if node.kind not in ("compute", "transfer")]
        assert {node.kind for node in ends} == kinds
        sends = next(node for node in ends if node.places == ((0, 2),))
        assert [str(op) for op in sends.ops] == ["0SEND_F0", "0SEND_F1"]
        assert graph.nodes[sends] == {"start": 24, "duration": 0}


def test_a_discipline_needs_communication() -> None:
    with pytest.raises(sv.InputError) as caught:
        sv.dependency_graph(TWO, sv.generate("gpipe", TWO), discipline="pair")
    hint = "sv.lower(schedule, problem) puts it in"
    assert str(caught.value) == f"discipline: no communication stands in the schedule ({hint})"
    with pytest.raises(sv.InputError):
        sv.dependency_graph(TWO, discipline="pair")
    with pytest.raises(sv.UnknownNameError):
        sv.dependency_graph(TWO, ORDER, discipline="pairs")


def test_without_a_discipline_the_graph_is_that_of_the_orders() -> None:
    graph = sv.dependency_graph(TWO, ORDER)
    assert list(graph) == [sv.Op(text) for text in ("0F0", "0F1", "1F0", "1F1")]
    assert {edge["why"] for _, _, edge in graph.edges(data=True)} == {"rank order", "transfer"}
