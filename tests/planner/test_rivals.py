"""What stands beside a plan: which limits a family breaks, told by the oracle too, and which rows the table has."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from oracle.compute_orders import peaks
from oracle.times import measures
from schedverify.core.plan import rivals
from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.planner.plans import optimize
from schedverify.planner.warm_starts import candidates
from support.tiny_problems import tiny_problems

CHAIN: dict[str, Any] = {"ranks": 4, "microbatches": 8, "forward": 1, "backward": 2}


def table(plan: Plan) -> dict[str, str]:
    """Return the rivals of a plan, each with what its row says of it."""
    return {known.family: known.note for known in rivals(plan)}


@settings(max_examples=100, phases=[Phase.generate], deadline=None, derandomize=True, database=None)
@given(tiny_problems(), st.none() | st.integers(1, 40))
def test_a_family_breaks_just_the_limits_that_the_oracle_says(problem: Problem, makespan: int | None) -> None:
    limited = Problem.of(
        problem.to_dict() | {"limits": problem.to_dict()["limits"] | {"makespan": makespan or 1 << 40}}
    )
    usual = 0
    for candidate in candidates(limited):
        data, rows = limited.to_dict(), candidate.timeline.schedule.strings()
        used = peaks(rows, data) | {"makespan": [measures(rows, data)["makespan"]]}
        allowed = {
            "memory.capacity": data["memory"].get("capacity"), "limits.in_flight": data["limits"].get("in_flight"),
            "limits.in_flight_stage": data["limits"].get("in_flight_stage"),
            "limits.makespan": [data["limits"]["makespan"]],
        }  # fmt: skip
        broken = [
            name
            for name, most in allowed.items()
            if most and any(a > b for a, b in zip(used[name.partition(".")[2]], most, strict=True))
        ]
        assert list(candidate.result.limits) == broken
        assert bool(broken) == bool(candidate.result.violated) == (not candidate.report.ok)
        usual += candidate.result.usual
    assert usual == 1


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({}, {"1f1b": ""}),
        ({"capacity": 2}, {"1f1b": "breaks memory.capacity (SV402)"}),
        ({"in_flight": 3}, {"1f1b": "breaks limits.in_flight (SV401)"}),
        (
            {"in_flight": 3, "in_flight_stage": 3, "capacity": 3},
            {"1f1b": "breaks memory.capacity, limits.in_flight, limits.in_flight_stage (SV401, SV402)"},
        ),
        ({"makespan": 46, "latency": 2}, {"1f1b": "breaks limits.makespan (SV503)", "gpipe": ""}),
        ({"objective": "peak-memory"}, {"1f1b": "", "naive": ""}),
        ({"virtual": 2}, {"interleaved-1f1b": ""}),
        ({"form": "split"}, {"1f1b": "", "zb-h1": ""}),
        ({"virtual": 2, "placement": "v", "capacity": 3}, {"gpipe": "breaks memory.capacity (SV402)"}),
        ({"form": "inference"}, {"gpipe": ""}),
    ],
)
def test_beside_a_plan_stands_the_usual_family_and_a_better_one(changes: dict[str, Any], told: dict[str, str]) -> None:
    objective = changes.get("objective", "makespan")
    problem = Problem.chain(**CHAIN | {key: value for key, value in changes.items() if key != "objective"})
    plan = optimize(problem, objective=objective, workers=1, time_limit=10)
    assert plan.schedule is not None
    assert table(plan) == told
    shown = str(plan)
    assert all(f"\n{family}" in shown and note in shown for family, note in told.items())
    assert objective == "peak-memory" or "naive" not in shown
