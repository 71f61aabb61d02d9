"""The timeline is the longest path through the dependency graph, and its measures are what they are called."""

from __future__ import annotations

import sys
import time
from fractions import Fraction
from typing import Any

import networkx as nx
import pytest

from oracle.compute_orders import peaks
from schedverify.core.errors import ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.generators import generate
from schedverify.simulator.engine import simulate
from schedverify.verifier.graph import dependency_graph, step_graph
from support.random_schedules import base


def earliest(problem: Problem, schedule: Schedule) -> dict[Any, int]:
    """Return the earliest start of every operation, by networkx alone."""
    steps = step_graph(dependency_graph(problem, schedule))
    start: dict[Any, int] = {}
    for node in nx.topological_sort(steps):
        start[node] = max(
            (start[b] + steps.nodes[b]["duration"] + steps.edges[b, node]["lag"] for b in steps.pred[node]), default=0
        )
    return {op: start[node] for node in steps for op in node}


@pytest.mark.parametrize("chunk", range(5))
def test_the_sweep_agrees_with_longest_paths(chunk: int) -> None:
    for number in range(chunk * 80, chunk * 80 + 80):
        found = base(number)
        schedule = Schedule.of(found.rows)
        timeline, expected = simulate(schedule, found.problem), earliest(found.problem, schedule)
        for rank, starts in enumerate(timeline.starts):
            for step, start in zip(schedule.steps(rank), starts.tolist(), strict=True):
                assert {expected[op] for op in step.ops} == {start}, f"base {number}, rank {rank}, {step}"


@pytest.mark.parametrize("chunk", range(5))
def test_peaks_agree_with_the_oracle(chunk: int) -> None:
    for number in range(chunk * 80, chunk * 80 + 80):
        found = base(number)
        measures = simulate(Schedule.of(found.rows), found.problem).measures
        expected = peaks(found.rows, found.problem.to_dict())
        assert list(measures.peak_in_flight) == expected["in_flight"], f"base {number}"
        assert list(measures.peak_memory) == expected["capacity"], f"base {number}"


def test_measures_of_1f1b() -> None:
    problem = Problem.chain(ranks=4, microbatches=8, forward=1, backward=2)
    timeline = simulate(generate("1f1b", problem), problem)
    assert timeline.makespan == timeline.span == 33
    assert timeline.bubble_fraction == timeline.span_bubble == Fraction(3, 11)
    assert timeline.bubble_overhead == Fraction(3, 8)
    assert timeline.peak_in_flight == timeline.peak_memory == (4, 3, 2, 1)
    assert timeline.measures.work == (24, 24, 24, 24)


def test_span_is_less_than_makespan_where_a_rank_begins_late() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, forward=3, form="inference")
    timeline = simulate(Schedule.parse("0F0\n1F0"), problem)
    assert (timeline.makespan, timeline.span, timeline.bubble_fraction) == (6, 3, Fraction(1, 2))
    assert timeline.span_bubble == 0


def test_transfers_take_latency_and_the_time_of_their_bytes() -> None:
    links = {"latency": 5, "bytes": 7, "bandwidth": 2}
    problem = Problem.chain(ranks=2, microbatches=1, forward=1, backward=1, **links)
    timeline = simulate(Schedule.parse("0F0 0B0\n1F0 1B0"), problem)
    assert [row.tolist() for row in timeline.starts] == [[0, 21], [10, 11]]
    same_rank = Problem.chain(ranks=1, microbatches=1, virtual=2, forward=1, backward=1, **links)
    assert simulate(Schedule.parse("0F0 1F0 1B0 0B0"), same_rank).makespan == 4


def test_an_overlapped_pair_costs_what_the_problem_says() -> None:
    cheap = [{"forward": 1, "backward": 1, "cost": 2}]
    problem = Problem.chain(ranks=2, microbatches=2, forward=1, backward=2, overlapped=cheap)
    schedule = Schedule.parse("0F0 0F1 0B0 0B1\n1F0 (1F1;1B0)OVERLAP_F_B 1B1")
    assert simulate(schedule, problem).starts[1].tolist() == [1, 2, 4]
    dear = Problem.chain(ranks=2, microbatches=2, forward=1, backward=2)
    assert simulate(schedule, dear).starts[1].tolist() == [1, 2, 5]


def test_a_stage_on_two_ranks_starts_when_both_are_free() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, stages=2, placement=[[0, 1], 1], forward=2, backward=2)
    timeline = simulate(Schedule.parse("0F0 0B0\n0F0 1F0 1B0 0B0"), problem)
    assert [row.tolist() for row in timeline.starts] == [[0, 6], [0, 2, 4, 6]]


def test_a_recomputing_stage_pays_its_forward_again() -> None:
    problem = Problem.chain(ranks=1, microbatches=1, forward=3, backward_input=1, backward_weight=1, recompute=True)
    timeline = simulate(Schedule.parse("0F0 0I0 0W0"), problem)
    assert timeline.starts[0].tolist() == [0, 3, 7]


def test_slices_wait_for_their_neighbours() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, slices=2, forward=1, backward=1)
    timeline = simulate(Schedule.parse("0F0 0F1 0B1 0B0\n1F0 1F1 1B1 1B0"), problem)
    assert timeline.makespan == 6
    with pytest.raises(ScheduleError, match="rank 0 waits at position 0"):
        simulate(Schedule.parse("0F1 0F0 0B1 0B0\n1F0 1F1 1B1 1B0"), problem)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0F0 0F1 0B0\n1F0 1B0 1F1 1B1", "stage 0 lacks operations of micro-batch 1 on rank 0"),
        ("0F0 0F1 0B0 0B1 0B1\n1F0 1B0 1F1 1B1", "stage 0, micro-batch 1 twice"),
        ("0F0 0F1 0B0 0B1 1F0\n1F0 1B0 1F1 1B1", "1F0 on rank 0 is no operation of this problem there"),
        ("0F0 0F1 0B0 0I1\n1F0 1B0 1F1 1B1", "0I1 on rank 0 is no operation"),
        ("0F0 0F1 0B0 0B1\n1F1 1B0 1F0 1B1", "rank 0 waits at position 2 for ever"),
        ("0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1\n-", "the schedule has 3 ranks, the problem 2"),
        ("[0F0;0F1] 0B0 0B1\n1F0 1B0 1F1 1B1", "0F1 on rank 0 is no operation"),
    ],
)
def test_what_cannot_run_has_no_timeline(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        simulate(Schedule.parse(text), Problem.chain(ranks=2, microbatches=2))


def test_an_excerpt_counts_what_it_lacks_as_done() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, forward=1, backward=2, latency=9)
    timeline = simulate(Schedule.parse("0B1\n1B0 1B1"), problem, excerpt=True)
    assert [row.tolist() for row in timeline.starts] == [[13], [0, 2]]
    assert timeline.peak_in_flight == (1, 2)


def test_the_sweep_is_linear() -> None:
    """Ten times the operations cost about ten times the bytecodes, whatever the machine: count loop passes."""
    counts = []
    for microbatches in (100, 1000):
        problem = Problem.chain(ranks=4, microbatches=microbatches)
        schedule = generate("1f1b", problem)
        counts.append(_lines_run(lambda p=problem, s=schedule: simulate(s, p)))
    assert counts[1] < 11 * counts[0]


def _lines_run(call: Any) -> int:
    lines = 0

    def trace(_frame: Any, event: str, _argument: Any) -> Any:
        nonlocal lines
        lines += event == "line"
        return trace

    before = sys.gettrace()
    sys.settrace(trace)
    try:
        call()
    finally:
        sys.settrace(before)
    return lines


@pytest.mark.slow
def test_a_million_operations() -> None:
    problem = Problem.chain(ranks=64, microbatches=8000, forward=1, backward=2)
    schedule = generate("1f1b", problem)
    began = time.perf_counter()
    assert simulate(schedule, problem).makespan == (8000 + 63) * 3
    print(f"{len(schedule) / (time.perf_counter() - began):.3g} operations a second")


def test_steps_that_an_overlapped_pair_of_another_rank_joins_have_no_timeline() -> None:
    costs = {"forward": 1, "backward": 1}
    problem = Problem.of({"ranks": 2, "microbatches": 2, "stages": 1, "placement": [[0, 1]], "costs": costs})
    schedule = Schedule.parse("0F0 0F1 0B0 0B1\n0F0 (0F1;0B0)OVERLAP_F_B 0B1")
    with pytest.raises(ScheduleError, match="rank 0 would have to start positions 1 and 2 as one step"):
        simulate(schedule, problem)
    beside = problem.to_dict() | {"ranks": 3, "stages": 2, "placement": [[0, 1], 2]}
    lowered = "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1\n0F0 (0F1;0B0)OVERLAP_F_B 0B1\n"
    lowered += "1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1"
    beside["edges"], beside["costs"], beside["links"] = [[0, 1]], costs, {}
    del beside["memory"], beside["limits"]
    for discipline in ("tagged", "pair", "block"):
        with pytest.raises(ScheduleError, match="cannot run to its end"):
            simulate(Schedule.parse(lowered), Problem.of(beside), discipline=discipline)


def test_a_step_that_ends_sooner_on_one_rank_lets_that_rank_go_on() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, placement=[[0, 1], 1], forward=1, backward=[1, 5])
    schedule = Schedule.parse("0F0 0F1 0B1 0B0\n0F0 1F0 (0F1;1B0)OVERLAP_F_B 1F1 1B1 0B1 0B0")
    timeline = simulate(schedule, problem)
    assert [row.tolist() for row in timeline.starts] == [[0, 2, 14, 15], [0, 1, 2, 8, 9, 14, 15]]
    assert timeline.ends[0][1] == 3  # F1 of stage 0 is over on rank 0 there, and is made at 8, where it ends on rank 1
