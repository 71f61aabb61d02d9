"""The dependency graph has every operation and says why each waits; its longest path is the makespan."""

from __future__ import annotations

import itertools

import networkx as nx

from schedverify.core.op import Op, unpack
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.simulator.engine import simulate
from schedverify.verifier.graph import critical_path, dependency_graph, needs, reads, step_graph
from schedverify.verifier.occurrences import Occurrences
from support.random_schedules import base


def test_the_critical_path_ends_at_the_makespan() -> None:
    for number in range(60):
        found = base(number)
        schedule = Schedule.of(found.rows)
        graph = dependency_graph(found.problem, schedule)
        path = critical_path(graph)
        steps = step_graph(graph)
        hops = sum(steps.edges[a, b]["lag"] for a, b in itertools.pairwise(path))
        assert hops + sum(steps.nodes[step]["duration"] for step in path) == simulate(schedule, found.problem).makespan


def test_the_graph_of_a_problem_has_every_operation_and_says_why() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, backward_input=1, backward_weight=1, latency=4)
    graph = dependency_graph(problem)
    assert sorted(map(str, graph)) == ["0F0", "0I0", "0W0", "1F0", "1I0", "1W0"]
    why = {(str(a), str(b)): (data["why"], data["lag"]) for a, b, data in graph.edges(data=True)}
    assert why == {
        ("0F0", "1F0"): ("transfer", 4),
        ("0F0", "0I0"): ("own forward", 0),
        ("1F0", "1I0"): ("own forward", 0),
        ("1I0", "0I0"): ("transfer", 4),
        ("0I0", "0W0"): ("own input part", 0),
        ("1I0", "1W0"): ("own input part", 0),
    }
    ordered = dependency_graph(problem, Schedule.parse("0F0 0I0 0W0\n1F0 1I0 1W0"))
    assert ordered.nodes[Op.parse("1I0")]["places"] == ((1, 1),)
    assert ordered.edges[Op.parse("0F0"), Op.parse("0I0")]["why"] in ("own forward", "rank order")


def test_a_pair_that_waits_for_itself_is_a_cycle_of_steps() -> None:
    problem = Problem.chain(ranks=1, microbatches=1)
    steps = step_graph(dependency_graph(problem, Schedule.parse("(0F0;0B0)OVERLAP_F_B")))
    assert not nx.is_directed_acyclic_graph(steps)


def test_operations_read_at_once_what_each_needs() -> None:
    for number in range(120):
        found = base(number)
        occurrences = Occurrences(Schedule.of(found.rows), found.problem)
        for across in (False, True):
            entries, words = reads(occurrences, across=across)
            reading = occurrences.op[entries]
            read = set(zip(map(unpack, reading.tolist()), map(unpack, words.tolist()), strict=True))
            needed = {
                (op, need.op)
                for op in map(unpack, occurrences.ops.tolist())
                for need in needs(found.problem, op)
                if (need.why == "transfer") == across
            }
            assert read == needed, f"base {number}"


def test_a_second_instance_reads_and_is_read_by_nobody() -> None:
    problem = Problem.chain(ranks=2, microbatches=1)
    graph = dependency_graph(problem, Schedule.parse("0F0 0F0 0B0\n1F0 1B0"))
    assert sorted(map(str, graph)) == ["0B0", "0F0", "0F0 (rank 0, position 1)", "1B0", "1F0"]
    second = next(node for node in graph if str(node) == "0F0 (rank 0, position 1)")
    assert [(str(node), data["why"]) for _, node, data in graph.out_edges(second, data=True)] == [("0B0", "rank order")]
    assert graph.edges[Op.parse("0F0"), Op.parse("1F0")]["why"] == "transfer"
