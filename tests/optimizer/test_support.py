"""What the optimizer refuses, and what it sees at once that no order can do: each with its exact words."""

from __future__ import annotations

from typing import Any

import pytest

from oracle.brute_force import brute_force
from schedverify.core.errors import UnknownNameError, UnsupportedError
from schedverify.core.problem import Problem
from schedverify.core.result import Status, Verdict
from schedverify.optimizer.support import TIMES, check_supported, impossible, limits_of
from schedverify.planner.plans import optimize
from schedverify.verifier.verification import verify

PAIR: dict[str, Any] = {"ranks": 2, "microbatches": 2}
TWO: dict[str, Any] = {"ranks": 1, "microbatches": 2, "virtual": 2}


@pytest.mark.parametrize(
    ("keys", "objective", "faults"),
    [
        ({}, "makespan", []),
        ({}, "peak-memory", ["objective.minimize"]),
        ({"buffer": 1}, "span", ["links.buffer"]),
        ({"overlapped": [{"forward": 0, "backward": 0, "cost": 2}]}, "span", ["costs.overlapped"]),
        ({"overlapped": [{"forward": 0, "backward": 0, "cost": 3}]}, "span", []),
        ({"forward": 1 << 52}, "makespan", ["costs"]),
        ({"forward": 1 << 52, "backward": 1, "buffer": 1}, "peak-memory",
         ["objective.minimize", "links.buffer", "costs"]),
    ],
)  # fmt: skip
def test_all_that_the_model_cannot_take_is_named(keys: dict[str, Any], objective: str, faults: list[str]) -> None:
    problem = Problem.chain(**(PAIR | keys))
    if not faults:
        check_supported(problem, objective, TIMES)
        return
    with pytest.raises(UnsupportedError) as caught:
        check_supported(problem, objective, TIMES)
    assert [fault.key for fault in caught.value.faults] == faults


def test_an_objective_that_is_none_is_unknown() -> None:
    with pytest.raises(UnknownNameError, match="throughput"):
        check_supported(Problem.chain(**PAIR), "throughput")


RECOMPUTES: dict[str, Any] = {"ranks": 2, "microbatches": 3, "forward": 2, "backward": [4, 1], "recompute": True,
                              "boundary": 1, "activation": 3, "capacity": 3}  # fmt: skip
"""Rank 0 works 3 (2 + 4 + 2) ticks, and the first gradient comes back at 2 + 2 + 3: in 28, two F must run before it."""


@pytest.mark.parametrize(
    ("keys", "reason", "evidence"),
    [
        (
            TWO | {"in_flight": 1},
            "on rank 0 one sequence has 1 x 2 in flight when stage 1 turns back, and in_flight is 1",
            {"rule": "in_flight", "rank": 0, "objective": "in-flight", "bound": 2},
        ),
        (
            PAIR | {"slices": 2, "in_flight_stage": 1},
            "on stage 0 one sequence has 2 in flight, and in_flight_stage is 1",
            {"rule": "in_flight_stage", "stage": 0, "objective": "in-flight", "bound": 2},
        ),
        (
            PAIR | {"makespan": 8},
            "no order has a makespan below 9 ticks, and limits.makespan is 8 ticks",
            {"rule": "load", "rank": 1, "objective": "makespan", "bound": 9},
        ),
        (
            RECOMPUTES | {"makespan": 28},
            "rank 0 holds 4 units, 1 unit over its 3 units, in every order with a makespan of 28 ticks or less",
            {"rule": "memory", "stage": 0, "objective": "peak-memory", "bound": 4},
        ),
    ],
)
def test_what_no_order_can_do(keys: dict[str, Any], reason: str, evidence: dict[str, Any]) -> None:
    problem = Problem.chain(**keys)
    assert impossible(problem) == (reason, evidence)
    assert not brute_force(problem).feasible or (brute_force(problem).makespan or 0) > (problem.makespan_limit or 0)
    for objective in ("makespan", "span", "peak-memory"):
        plan = optimize(problem, objective=objective, workers=1)
        assert (plan.status, plan.reason, plan.certificate) == (Status.INFEASIBLE, reason, evidence)
        assert plan.bound == (evidence["bound"] if evidence["objective"] == objective else None)
        assert verify(plan)["SV502"].verdict is Verdict.HOLDS


@pytest.mark.parametrize(
    "keys",
    [
        PAIR | {"in_flight": 1, "in_flight_stage": 1, "capacity": 1},
        TWO | {"in_flight": 2},
        TWO | {"activation": [2, 3], "static": 4, "capacity": 9},
        PAIR | {"makespan": 9},
        RECOMPUTES | {"makespan": 29},
    ],
    ids=str,
)
def test_what_some_order_can_do(keys: dict[str, Any]) -> None:
    assert impossible(Problem.chain(**keys)) is None


def test_the_limits_that_are_on() -> None:
    assert limits_of(Problem.chain(**PAIR)) == []
    problem = Problem.chain(**PAIR, makespan=20, capacity=3, in_flight=2, in_flight_stage=2)
    assert limits_of(problem) == [
        "limits.in_flight", "limits.in_flight_stage", "memory.capacity", "limits.makespan",
    ]  # fmt: skip
