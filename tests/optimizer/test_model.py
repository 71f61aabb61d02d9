"""The model of orders: what it comes to on problems of each form, and hints that keep every rule."""

from __future__ import annotations

from typing import Any

import pytest

from oracle.brute_force import brute_force
from schedverify.core.problem import Problem
from schedverify.optimizer.heuristics.greedy import list_schedule, policies
from schedverify.optimizer.model.memory import counts_steps
from schedverify.optimizer.model.rules import add_constraints, reasons_in_all
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.orders import measure, rows_of
from schedverify.optimizer.search_state import Incumbent
from schedverify.optimizer.solvers.cp_sat import SolverOutcome, SolverSettings, new_solver, search
from schedverify.optimizer.tasks import OpKey, Tasks

PAIR: dict[str, Any] = {"ranks": 2, "microbatches": 4, "forward": 1, "backward": 2}
SPLIT: dict[str, Any] = {
    "ranks": 2, "microbatches": 3, "form": "split", "latency": 1, "activation": 2, "weight_stash": 1,
}  # fmt: skip
TWO: dict[str, Any] = {"ranks": 2, "virtual": 2, "microbatches": 2, "latency": 1}
SHAPES: dict[str, dict[str, Any]] = {
    "fused": PAIR,
    "inference": {"ranks": 2, "microbatches": 3, "form": "inference"},
    "split, lone stages": SPLIT | {"capacity": 4},
    "split, more stash than room": SPLIT | {"weight_stash": 2, "capacity": 4},
    "mixed": SPLIT | {"backward": [2, 1], "capacity": 4},
    "recomputing": {"ranks": 2, "microbatches": 3, "recompute": True, "activation": 5, "boundary": 2, "capacity": 7},
    "recomputing and split": SPLIT | {"recompute": True, "activation": 3, "boundary": 1, "capacity": 5},
    "several stages": TWO | {"activation": [1, 2, 3, 1], "capacity": 6},
    "several stages, in flight": TWO | {"in_flight": 2},
    "slices": {"ranks": 2, "microbatches": 4, "slices": 2, "capacity": 3, "in_flight": 3, "in_flight_stage": 3},
    "a stage on two ranks": {"ranks": 2, "microbatches": 2, "placement": [0, [0, 1]]},
}


def order_model(problem: Problem, objective: str = "makespan", **keys: Any) -> OrderModel:
    tasks = Tasks(problem)
    model = OrderModel(tasks, horizon=tasks.horizon, objective=objective, **keys)
    add_constraints(model)
    return model


def solve(model: OrderModel) -> tuple[SolverOutcome, dict[OpKey, int]]:
    found: list[dict[OpKey, int]] = []
    outcome = search(model, 60, SolverSettings(0, 1, lambda: False, found.append, lambda _bound: None))
    return outcome, found[-1]


@pytest.mark.parametrize(
    ("limit", "makespan"),
    [({}, 15), ({"in_flight": 2}, 15), ({"in_flight": 1}, 24), ({"in_flight_stage": 1}, 24), ({"capacity": 1}, 24)],
)
def test_two_ranks_by_hand(limit: dict[str, Any], makespan: int) -> None:
    """One micro-batch at a time takes 6 ticks; with two in flight rank 1 is busy for 12, behind 1 and before 2."""
    outcome, starts = solve(order_model(Problem.chain(**PAIR, **limit)))
    assert outcome == SolverOutcome(closed=True, found=True, bound=makespan)
    assert sorted(starts) == sorted((kind, stage, m) for kind in "FB" for stage in range(2) for m in range(4))


@pytest.mark.parametrize("name", SHAPES)
def test_the_least_makespan_of_each_shape(name: str) -> None:
    problem = Problem.chain(**SHAPES[name])
    outcome, starts = solve(order_model(problem))
    assert outcome.closed
    assert measure(Tasks(problem), rows_of(problem, starts), "makespan") == brute_force(problem).makespan


@pytest.mark.parametrize("prompt", [False, True])
@pytest.mark.parametrize("name", SHAPES)
def test_a_hint_gives_every_variable_a_value_that_keeps_every_rule(name: str, prompt: bool) -> None:
    problem = Problem.chain(**SHAPES[name])
    tasks = Tasks(problem)
    best = Incumbent(tasks, "span", None)
    for policy in policies(tasks):
        if rows := list_schedule(tasks, policy):
            best.offer(rows)
    starts = best.fifo_starts()
    assert starts is not None
    model = order_model(problem, "span", prompt=prompt)
    model.hint(starts)
    hinted = set(model.cp.proto.solution_hint.vars)
    assert hinted == set(range(len(model.cp.proto.variables))) - {model.value.index}
    solver = new_solver(60, 1, fix_variables_to_their_hinted_value=True)
    assert solver.status_name(solver.solve(model.cp)) == "OPTIMAL"
    assert model.read(solver.value) == starts


SHAPE: dict[str, Any] = {"placement": [0, 1, 1], "edges": [[0, 2], [1, 2]], "forward": [4, 1, 1]}
"""Rank 1 runs 1F0 at 0 and 2F0 at 4, once 0F0 has ended: a span of 5, of 4 if 1F0 waited; it is anchored at 0."""


@pytest.mark.parametrize(("keys", "bound"), [({}, 4), ({"prompt": True}, 5), ({"anchored": True}, 5)])
def test_the_span_of_prompt_first_steps(keys: dict[str, bool], bound: int) -> None:
    problem = Problem.chain(ranks=2, microbatches=1, form="inference", **SHAPE)
    assert solve(order_model(problem, "span", **keys))[0].bound == bound


def test_anchored_first_steps_stay_in_their_places() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, form="inference", forward=[2, 3])
    outcome, starts = solve(order_model(problem, "span", anchored=True))
    assert (outcome.bound, starts["F", 0, 0], starts["F", 1, 0]) == (6, 0, 2)


def test_what_makes_a_model_large() -> None:
    """By rank the square of its steps: 2 stages of 2 micro-batches with F and B, on each of 2 ranks."""
    assert reasons_in_all(Tasks(Problem.chain(**TWO))) == 2 * 8**2
    model = order_model(Problem.chain(**TWO))
    assert counts_steps(model, (0, 2))
    assert not counts_steps(order_model(Problem.chain(**TWO), without={"fifo"}), (0, 2))
    assert not counts_steps(order_model(Problem.chain(**TWO | {"microbatches": 200})), (0, 2))
