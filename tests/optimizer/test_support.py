"""What the optimizer refuses, and what it sees at once that no order can do: each with its exact words."""

from __future__ import annotations

from typing import Any

import pytest

from schedverify.core.errors import UnknownNameError, UnsupportedError
from schedverify.core.problem import Problem
from schedverify.optimizer.support import TIMES, check_supported, impossible, limits_of

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


@pytest.mark.parametrize(
    ("keys", "reason"),
    [
        (PAIR | {"in_flight": 1, "in_flight_stage": 1, "capacity": 1}, ""),
        (TWO | {"in_flight": 2}, ""),
        (
            TWO | {"in_flight": 1},
            "on rank 0 one sequence has 1 x 2 in flight when stage 1 turns back, and in_flight is 1",
        ),
        (
            PAIR | {"slices": 2, "in_flight_stage": 1},
            "on stage 0 one sequence has 2 in flight, and in_flight_stage is 1",
        ),
        (TWO | {"activation": [2, 3], "static": 4, "capacity": 9}, ""),
        (PAIR | {"makespan": 8}, "no order has a makespan below 9 ticks, and limits.makespan is 8 ticks"),
        (PAIR | {"makespan": 9}, ""),
    ],
)
def test_what_no_order_can_do(keys: dict[str, Any], reason: str) -> None:
    assert impossible(Problem.chain(**keys)) == reason


def test_the_limits_that_are_on() -> None:
    assert limits_of(Problem.chain(**PAIR)) == []
    problem = Problem.chain(**PAIR, makespan=20, capacity=3, in_flight=2, in_flight_stage=2)
    assert limits_of(problem) == [
        "limits.in_flight", "limits.in_flight_stage", "memory.capacity", "limits.makespan",
    ]  # fmt: skip
