"""Each rule of the model, dropped in turn: the verifier then objects to what comes out, by the right code."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from schedverify.core.problem import Problem
from schedverify.core.result import Report
from schedverify.optimizer.model.rules import RULES, add_constraints
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.orders import rows_of, schedule_of
from schedverify.optimizer.solvers.cp_sat import SolverSettings, search
from schedverify.optimizer.tasks import Node, OpKey, Tasks
from schedverify.verifier.verification import verify

SPLIT: dict[str, Any] = {"ranks": 2, "microbatches": 3, "form": "split", "backward_weight": 2}
DROPPED: dict[str, tuple[dict[str, Any], str]] = {
    "exclusive": (SPLIT, "SV202"),
    "activations": (SPLIT | {"forward": [4, 1]}, "SV202"),
    "gradients": (SPLIT, "SV202"),
    "own forward": (SPLIT, "SV202"),
    "weights": (SPLIT, "SV202"),
    "slices": (SPLIT | {"microbatches": 4, "slices": 2}, "SV202"),
    "in flight": ({"ranks": 4, "microbatches": 6, "in_flight": 2}, "SV401"),
    "in flight of a stage": ({"ranks": 4, "microbatches": 6, "in_flight_stage": 2}, "SV401"),
    "bytes": (SPLIT | {"ranks": 4, "activation": 2, "weight_stash": 1, "capacity": 4}, "SV402"),
    "recomputation": (
        {"ranks": 3, "microbatches": 4, "recompute": True, "activation": 5, "boundary": 2, "capacity": 6}, "SV402",
    ),
}  # fmt: skip


def answer(keys: dict[str, Any], without: set[str], instead: dict[str, Any] | None = None) -> Report:
    """Optimize without some rules, and let the verifier judge the order and the times that come out.

    With ``instead`` the optimizer is told another problem than the verifier: one with these keys in place of its own.
    """
    problem = Problem.chain(**keys)
    tasks = Tasks(Problem.chain(**(keys | (instead or {}))))
    model = OrderModel(tasks, horizon=tasks.horizon, without=without)
    add_constraints(model)
    found: list[dict[OpKey, int]] = []
    outcome = search(model, 30, SolverSettings(0, 1, lambda: False, found.append, lambda _bound: None))
    assert outcome.closed
    rows = rows_of(problem, found[-1])
    timeline = [[tasks.ticks(found[-1][op]) for op in row] for row in rows]
    return verify(schedule_of(rows), problem, claims={"timeline": timeline})


@pytest.mark.parametrize("name", DROPPED)
def test_without_the_rule_the_verifier_objects(name: str) -> None:
    keys, code = DROPPED[name]
    assert answer(keys, set()).ok
    assert code in {violation.code for violation in answer(keys, {name}).violations}


TWO_STAGES: dict[str, Any] = {"ranks": 2, "virtual": 2, "microbatches": 4, "latency": 1}
WIDE: dict[str, Any] = {"ranks": 2, "microbatches": 3, "placement": [0, 1, [1, 0]]}
AGAIN: dict[str, Any] = {"recompute": True, "activation": 5, "boundary": 2}
HOLDING: dict[str, Any] = {"activation": 2, "weight_stash": 1}
TIGHT: dict[str, Any] = SPLIT | HOLDING | {"microbatches": 4, "backward_weight": 1, "latency": 2, "capacity": 4}
UNTOLD: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "latency of activations": (SPLIT | {"latency": 2}, {"latency": [[0, 0], [2, 0]]}, "SV202"),
    "latency of gradients": (SPLIT | {"latency": 2}, {"latency": [[0, 2], [0, 0]]}, "SV202"),
    "occupation of a link": (SPLIT | {"bytes": 9, "bandwidth": 4}, {"bandwidth": 9}, "SV202"),
    "the other ranks of a stage": (WIDE, {"placement": [0, 1, 1]}, "SV202"),
    "the forward that recomputation pays": (SPLIT | AGAIN, {"recompute": False}, "SV202"),
    "what I leaves for W": (TIGHT, {"weight_stash": 0}, "SV402"),
    "static bytes": (SPLIT | HOLDING | {"capacity": 5, "static": 2}, {"static": 0}, "SV402"),
    "the graph that is no chain": ({"ranks": 3, "microbatches": 2, "edges": [[0, 2], [1, 2]]}, {"edges": []}, "SV202"),
}  # fmt: skip


@pytest.mark.parametrize("name", UNTOLD)
def test_without_a_part_of_the_problem_the_verifier_objects(name: str) -> None:
    keys, instead, code = UNTOLD[name]
    assert answer(keys, set()).ok
    assert code in {violation.code for violation in answer(keys, set(), instead).violations}


def without_pairs(letter: str) -> Callable[..., None]:
    """Return ``OrderModel.after`` without the precedences of memory that let F wait for a step of this letter."""
    known = OrderModel.after

    def after(model: OrderModel, later: Node, earlier: Node, lag: int = 0) -> None:
        if not (later[0] == "F" and earlier[0] == letter):
            known(model, later, earlier, lag)

    return after


def nothing(*_: Any) -> None:
    """Add nothing."""


MEMORY, STAGES = "memory", "memory.limit_shared_rank"
PARTS: dict[str, tuple[dict[str, Any], str, Any, str]] = {
    "I must have ended": (
        SPLIT | HOLDING | {"capacity": 3}, "variables.OrderModel.after", without_pairs("GRAD"), "SV402",
    ),
    "W must have ended": (
        SPLIT | {"activation": 2, "weight_stash": 2, "capacity": 4},
        "variables.OrderModel.after", without_pairs("W"), "SV402",
    ),
    "either I or W must have": (TIGHT, "variables.OrderModel.after_either", nothing, "SV402"),
    "bytes of a stage that stands alone": (TIGHT, f"{MEMORY}.limit_split_stage", nothing, "SV402"),
    "bytes of several stages": (
        TWO_STAGES | {"activation": [1, 2, 3, 1], "capacity": 6}, STAGES, nothing, "SV402",
    ),
    "bytes of several stages that split": (
        TWO_STAGES | HOLDING | {"form": "split", "capacity": 5}, STAGES, nothing, "SV402",
    ),
    "bytes of a mixed stage": (
        TIGHT | {"ranks": 3, "capacity": 3, "backward_weight": 4, "backward": [5, 4, 4]}, f"{MEMORY}.limit_resource",
        nothing, "SV402",
    ),
    "bytes of a stage that splits and recomputes": (
        SPLIT | AGAIN | {"capacity": 6}, f"{MEMORY}.limit_resource", nothing, "SV402",
    ),
    "bytes of slices": (
        {"ranks": 2, "microbatches": 6, "slices": 2, "capacity": 3}, f"{MEMORY}.limit_resource", nothing, "SV402",
    ),
    "in flight of several stages": (TWO_STAGES | {"in_flight": 3}, STAGES, nothing, "SV401"),
    "in flight of slices": (
        {"ranks": 2, "microbatches": 6, "slices": 2, "in_flight": 3}, f"{MEMORY}.limit_resource", nothing, "SV401",
    ),
    "in flight of slices of a stage": (
        {"ranks": 2, "microbatches": 6, "slices": 2, "in_flight_stage": 3},
        f"{MEMORY}.limit_resource", nothing, "SV401",
    ),
    "what recomputation holds while it runs": (
        {"ranks": 3, "microbatches": 4, "capacity": 6, **AGAIN}, f"{MEMORY}.limit_recomputing_stage", nothing, "SV402",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", PARTS)
def test_without_the_part_the_verifier_objects(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    keys, place, instead, code = PARTS[name]
    assert answer(keys, set()).ok
    monkeypatch.setattr(f"schedverify.optimizer.model.{place}", instead)
    assert code in {violation.code for violation in answer(keys, set()).violations}


@pytest.mark.parametrize("name", ["exclusive", "weights", "own forward"])
def test_without_the_rule_of_mixed_stages_the_verifier_objects(name: str) -> None:
    keys = SPLIT | {"backward": [3, 2], "latency": 2}
    assert answer(keys, set()).ok
    assert "SV202" in {violation.code for violation in answer(keys, {name}).violations}


def test_every_rule_that_keeps_an_order_right_is_dropped_here() -> None:
    assert {name for name, _ in RULES} - {"fifo", "makespan limit", "objective"} == set(DROPPED) - {"recomputation"}


def test_first_in_first_out_loses_nothing() -> None:
    for keys, _ in DROPPED.values():
        values = {answer(keys, without).measures.makespan for without in (set(), {"fifo"})}  # type: ignore[union-attr]
        assert len(values) == 1


def test_without_the_makespan_limit_a_model_of_spans_ends_too_late() -> None:
    """With a span of 35 nothing ends by 44; of what does, the least span is 42."""
    costs: dict[str, Any] = {"forward": [9, 7], "backward_input": [3, 1], "backward_weight": [0, 8], "latency": 3}
    problem = Problem.chain(ranks=2, microbatches=2, form="split", makespan=44, **costs)
    tasks = Tasks(problem, "span")
    ended = {}
    for without in (set(), {"makespan limit"}):
        model = OrderModel(tasks, horizon=tasks.horizon, without=without)
        add_constraints(model)
        found: list[dict[OpKey, int]] = []
        outcome = search(model, 30, SolverSettings(0, 1, lambda: False, found.append, lambda _bound: None))
        report = verify(schedule_of(rows_of(problem, found[-1])), problem, claims={"span": outcome.bound})
        assert report.measures is not None
        assert not report.violations
        ended[outcome.bound] = report.measures.makespan <= 44
    assert ended == {42: True, 35: False}
