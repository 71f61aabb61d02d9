"""Where operations cost nothing, or nothing does: every answer is there and exact, and no search or picture fails."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import Any

import pytest

from oracle.brute_force import brute_force
from oracle.law import Law
from oracle.times import measures
from schedverify.core.problem import Problem
from schedverify.core.result import Status
from schedverify.core.schedule import Schedule
from schedverify.drawing import draw
from schedverify.planner.explanation import explain
from schedverify.planner.plans import optimize
from schedverify.planner.proved_lowering import lower
from schedverify.simulator.delay_reasons import delays
from schedverify.simulator.engine import simulate
from schedverify.verifier.graph import critical_path, dependency_graph
from schedverify.verifier.verification import verify
from support.random_schedules import random_data, random_rows

OBJECTIVES = ("makespan", "span", "peak-memory")
ONE_SPAN: dict[str, Any] = {
    "ranks": 2, "microbatches": 1, "placement": [[0, 1], [0, 1], 1], "form": "inference", "costs": {"forward": 0},
    "links": {"latency": 3}, "objective": {"minimize": "span"},
}  # fmt: skip
RECOMPUTING: dict[str, Any] = {
    "ranks": 2, "microbatches": 1, "placement": [1, 1], "edges": [], "costs": {"forward": 0, "backward": 0},
    "memory": {"recompute": True, "boundary": [4, 0], "capacity": 4},
}  # fmt: skip


def zero_data(rng: random.Random) -> dict[str, Any]:
    """Return the data of a small problem in which most operations, or all, take no time."""
    data = random_data(rng)
    while data["microbatches"] * data["stages"] * data["replicas"] > 6:
        data = random_data(rng)
    data["costs"].pop("overlapped", None)
    stages = data["stages"] * data["replicas"]
    for name in data["costs"]:
        data["costs"][name] = 0 if rng.random() < 0.8 else [rng.choice([0, 0, 1]) for _ in range(stages)]
    if rng.random() < 0.5:
        data["links"] = {"latency": rng.choice([0, 3])}
    if rng.random() < 0.3:
        data["memory"] = {"activation": 0}
    return data


@pytest.mark.parametrize("data", [ONE_SPAN, RECOMPUTING, *(zero_data(random.Random(f"zero {n}")) for n in range(40))])
def test_what_takes_no_time_is_planned_and_proved(data: dict[str, Any]) -> None:
    problem = Problem.of(data)
    truth = brute_force(problem)
    for objective in OBJECTIVES:
        plan = optimize(problem, objective=objective, time_limit=20, workers=1)
        assert plan.status is Status.OPTIMAL
        assert plan.gap == (Fraction(0) if plan.value else None)
        assert not verify(plan).violations
        if objective != "span":
            assert plan.value == truth.value(objective)
        assert str(explain(plan, time_limit=20, workers=1))


@pytest.mark.parametrize("chunk", range(3))
def test_what_takes_no_time_has_measures_and_pictures(chunk: int) -> None:
    for number in range(chunk * 60, chunk * 60 + 60):
        rng = random.Random(f"no time {number}")
        data = zero_data(rng)
        problem = Problem.of(data)
        rows = random_rows(rng, Law(problem.to_dict()))
        schedule = Schedule.of(rows)
        timeline = simulate(schedule, problem)
        told = measures(rows, problem.to_dict())
        assert (timeline.makespan, timeline.bubble_fraction) == (told["makespan"], told["bubble_fraction"])
        work, area = sum(told["work"]), problem.ranks * told["makespan"]
        assert timeline.bubble_overhead == (Fraction(area - work, work) if work else None)
        assert timeline.span_bubble == 0 or timeline.span > 0
        assert draw(schedule, problem, critical=True).text()
        assert draw(schedule, problem).svg()
        assert critical_path(dependency_graph(problem, schedule))
        for discipline in ("tagged", "buffered", "edge", "pair", "rank", "block"):
            lowered = lower(schedule, problem, discipline=discipline)
            assert lowered.compute_only() == schedule
            ran = simulate(lowered, problem, discipline=discipline)
            assert ran.makespan >= timeline.makespan
            assert all(delay.ticks > 0 for delay in delays(ran))
