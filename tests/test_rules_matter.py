"""Each rule of the model, dropped in turn: the verifier then objects to what comes out, by the right code."""

from __future__ import annotations

from typing import Any

import pytest

from schedverify.optimizer.model import Model
from schedverify.optimizer.orders import rows_of, schedule_of
from schedverify.optimizer.rules import RULES, add_constraints
from schedverify.optimizer.search import Settings, search
from schedverify.optimizer.tasks import Tasks
from schedverify.optimizer.values import OpKey
from schedverify.problem import Problem
from schedverify.result import Report
from schedverify.verifier import verify

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


def answer(keys: dict[str, Any], without: set[str]) -> Report:
    """Optimize without some rules, and let the verifier judge the order and the times that come out."""
    problem = Problem.chain(**keys)
    tasks = Tasks(problem)
    model = Model(tasks, horizon=tasks.horizon, objective="makespan", without=without)
    add_constraints(model)
    found: list[dict[OpKey, int]] = []
    outcome = search(model, 30, Settings(0, 1, lambda: False, found.append, lambda _bound: None))
    assert outcome.closed
    rows = rows_of(problem, found[-1])
    timeline = [[tasks.ticks(found[-1][op]) for op in row] for row in rows]
    return verify(schedule_of(rows), problem, claims={"timeline": timeline})


@pytest.mark.parametrize("name", DROPPED)
def test_without_the_rule_the_verifier_objects(name: str) -> None:
    keys, code = DROPPED[name]
    assert answer(keys, set()).ok
    assert code in {violation.code for violation in answer(keys, {name}).violations}


def test_every_rule_that_keeps_an_order_right_is_dropped_here() -> None:
    assert {name for name, _ in RULES} - {"fifo", "prompt", "objective"} == set(DROPPED) - {"recomputation"}


def test_first_in_first_out_loses_nothing() -> None:
    for keys, _ in DROPPED.values():
        values = {answer(keys, without).measures.makespan for without in (set(), {"fifo"})}  # type: ignore[union-attr]
        assert len(values) == 1


def test_without_prompt_first_steps_a_span_is_claimed_that_no_timeline_has() -> None:
    # Rank 1 runs 1F0 at 0 and 2F0 at 4, once 0F0 has ended. Were 1F0 to wait until 3, the span would be that of rank 0.
    shape: dict[str, Any] = {"placement": [0, 1, 1], "edges": [[0, 2], [1, 2]], "forward": [4, 1, 1]}
    problem = Problem.chain(ranks=2, microbatches=1, form="inference", **shape)
    tasks = Tasks(problem)
    claimed = {}
    for without in (set(), {"prompt"}):
        model = Model(tasks, horizon=tasks.horizon, objective="span", prompt=True, without=without | {"fifo"})
        add_constraints(model)
        found: list[dict[OpKey, int]] = []
        outcome = search(model, 30, Settings(0, 1, lambda: False, found.append, lambda _bound: None))
        schedule = schedule_of(rows_of(problem, found[-1]))
        assert outcome.bound is not None
        report = verify(schedule, problem, claims={"span": outcome.bound})
        claimed[bool(without)] = outcome.bound, {violation.code for violation in report.violations}
    assert claimed == {False: (5, set()), True: (4, {"SV501"})}
