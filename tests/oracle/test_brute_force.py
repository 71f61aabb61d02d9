"""The brute force against the plainest one: every permutation of every rank, verified and simulated."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import permutations, product

from hypothesis import given, settings

from oracle.brute_force import brute_force
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.simulator.engine import simulate
from schedverify.verifier.verification import verify
from support.tiny_problems import tiny_problems


def choices(problem: Problem) -> Iterator[list[list[str]]]:
    """Yield the operations of each rank, for every choice between B and I with W."""
    backward = {"fused": ["B"], "split": ["B", "IW"], "inference": [""]}[problem.form]
    pairs = [(s, m) for s in range(problem.total_stages) for m in range(problem.microbatches) if problem.passes(s, m)]
    for ways in product(backward, repeat=len(pairs)):
        rows: list[list[str]] = [[] for _ in range(problem.ranks)]
        for (stage, m), way in zip(pairs, ways, strict=True):
            for rank in problem.placement[stage]:
                rows[rank] += [f"{stage}{kind}{m}" for kind in "F" + way]
        yield rows


def permuted(problem: Problem) -> Iterator[tuple[int, int, int]]:
    """Yield peak memory, makespan and span of every order that holds."""
    for rows in choices(problem):
        for orders in product(*map(permutations, rows)):
            schedule = Schedule.of(orders)
            if verify(schedule, problem, select=["SV2", "SV4"]).ok:
                timeline = simulate(schedule, problem)
                yield max(timeline.peak_memory), timeline.makespan, timeline.span


@settings(max_examples=80, deadline=None, derandomize=True, database=None)
@given(problem=tiny_problems(a_rank=4, in_all=6))
def test_it_equals_all_permutations(problem: Problem) -> None:
    values = set(permuted(problem))
    truth = brute_force(problem)
    assert truth.span == min((span for *_, span in values), default=None)
    assert truth.makespan == min((makespan for _, makespan, _ in values), default=None)
    assert truth.peak == min((peak for peak, *_ in values), default=None)
    for limit in {makespan for _, makespan, _ in values}:
        assert truth.peak_within(limit) == min(peak for peak, makespan, _ in values if makespan <= limit)
    if values:
        assert truth.makespan_of_least_peak == min(values)[1]
        assert truth.peak_of_least_makespan == min((makespan, peak) for peak, makespan, _ in values)[1]


@settings(max_examples=30, deadline=None, derandomize=True, database=None)
@given(problem=tiny_problems())
def test_it_names_orders_that_reach_the_values(problem: Problem) -> None:
    truth = brute_force(problem)
    assert set(truth.rows) == ({"makespan", "span", "peak-memory"} if truth.feasible else set())
    for objective, rows in truth.rows.items():
        schedule = Schedule.of(rows)
        assert verify(schedule, problem).ok
        measures = simulate(schedule, problem).measures
        reached = max(measures.peak_memory) if objective == "peak-memory" else getattr(measures, objective)
        assert reached == truth.value(objective)
