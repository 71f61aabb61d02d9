"""The model of orders: what it comes to on problems of each form, and hints that keep every rule."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest

from oracle.brute_force import brute_force, span_within
from schedverify.core.problem import Problem
from schedverify.optimizer.heuristics.greedy import list_schedule, policies
from schedverify.optimizer.incumbent import Incumbent
from schedverify.optimizer.model.memory import counts_steps
from schedverify.optimizer.model.rules import MOST_PAIRS, add_constraints, keeps_makespan_limit
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.orders import earliest, makespan_of, measure, rows_of, tightest
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
    tasks = Tasks(problem, objective)
    model = OrderModel(tasks, horizon=tasks.horizon, **keys)
    add_constraints(model)
    return model


def solve(model: OrderModel) -> tuple[SolverOutcome, dict[OpKey, int]]:
    found: list[dict[OpKey, int]] = []
    outcome = search(model, 60, SolverSettings(0, 1, lambda: False, found.append, lambda _bound: None))
    return outcome, found[-1] if found else {}


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
    assert measure(Tasks(problem), rows_of(problem, starts)) == brute_force(problem).makespan


@pytest.mark.parametrize("name", SHAPES)
def test_the_least_span_of_each_shape(name: str) -> None:
    problem = Problem.chain(**SHAPES[name])
    outcome, starts = solve(order_model(problem, "span"))
    truth = brute_force(problem).span
    assert outcome == SolverOutcome(closed=True, found=True, bound=truth)
    assert measure(Tasks(problem, "span"), rows_of(problem, starts)) == truth


@pytest.mark.parametrize(("objective", "spare"), [("makespan", None), ("span", None), ("span", 1)])
@pytest.mark.parametrize("name", [*SHAPES, "two first stages"])
def test_a_hint_gives_every_variable_a_value_that_keeps_every_rule(
    name: str, objective: str, spare: int | None
) -> None:
    """With ``spare`` under a limit on the makespan, so many ticks above that of the hint."""
    two = {"placement": [0, 1, 1], "edges": [[0, 2], [1, 2]], "ranks": 2, "microbatches": 2}
    problem = Problem.chain(**(SHAPES | {"two first stages": two})[name])
    tasks = Tasks(problem, objective)
    best = Incumbent(tasks, None)
    for policy in policies(tasks):
        if rows := list_schedule(tasks, policy):
            best.offer(rows)
    rows = best.fifo_rows()
    assert rows is not None
    early = earliest(tasks, rows)
    if spare is not None:
        problem = dataclasses.replace(problem, makespan_limit=makespan_of(tasks, rows) + spare)
    model = order_model(problem, objective)
    model.hint(tightest(tasks, rows)[1] if objective == "span" else early, early)
    assert (model.early is None) is (spare is None)
    hinted = list(model.cp.proto.solution_hint.vars)
    assert sorted(hinted) == sorted(set(range(len(model.cp.proto.variables))) - {model.value.index})
    solver = new_solver(60, 1, fix_variables_to_their_hinted_value=True)
    assert solver.status_name(solver.solve(model.cp)) == "OPTIMAL"
    assert solver.value(model.value) * tasks.unit == measure(tasks, rows)
    assert rows_of(problem, model.read(solver.value)) == rows


@pytest.mark.parametrize("instant", [0, 1, 5])
def test_instant_steps_take_nothing_off_a_mean_over_ranks(instant: int) -> None:
    """The way from rank 0 to 1 is 7 and that back is 6, so the span is 13 / 2 rounded up, whatever rank 2 does."""
    problem = Problem.chain(ranks=3, microbatches=1, placement=[0, 1, 1, 0] + [2] * instant, edges=[[0, 1], [2, 3]],
                            form="inference", forward=[0, 4, 0, 3] + [0] * instant, latency=3)  # fmt: skip
    assert solve(order_model(problem, "span"))[0].bound == 7 == brute_force(problem).span


@pytest.mark.parametrize(("makespan", "bound"), [(None, 2), (6, 2), (5, None)])
def test_a_makespan_limit_does_not_keep_first_steps_from_waiting(makespan: int | None, bound: int | None) -> None:
    """The only orders end at 6, and have a span of 2 in a timeline that ends at 10."""
    shape: dict[str, Any] = {"placement": [0, 1, 1, 2, 2], "edges": [[0, 2], [1, 4]], "latency": 4, "form": "inference"}
    problem = Problem.chain(ranks=3, microbatches=1, makespan=makespan, **shape)
    outcome, starts = solve(order_model(problem, "span"))
    assert outcome == SolverOutcome(True, bound is not None, bound)
    if bound is not None:
        rows = rows_of(problem, starts)
        tasks = Tasks(problem, "span")
        assert (makespan_of(tasks, rows), measure(tasks, rows)) == (6, 2)


@pytest.mark.parametrize(
    ("costs", "latency", "makespan", "spans"),
    [
        ({"forward": [7, 4, 1], "backward_input": [4, 5, 0], "backward_weight": [1, 7, 0]}, 3, 46, [46, 41, 41]),
        ({"forward": [9, 7], "backward_input": [3, 1], "backward_weight": [0, 8]}, 3, 44, [42, 35, 35]),
        ({"forward": [6, 2, 0], "backward_input": [4, 3, 0], "backward_weight": [2, 1, 8]}, 0, 25, [25, 25, 24]),
    ],
)
def test_a_makespan_limit_can_cost_a_span(
    costs: dict[str, list[int]], latency: int, makespan: int, spans: list[int]
) -> None:
    """The orders that end first have a longer span than those that end some ticks later."""
    problem = Problem.chain(ranks=len(costs["forward"]), microbatches=2, form="split", latency=latency, **costs)
    assert (brute_force(problem).span, brute_force(problem).makespan) == (spans[-1], makespan)
    for spare, span in zip((0, 1, 5), spans, strict=True):
        limited = dataclasses.replace(problem, makespan_limit=makespan + spare)
        outcome, starts = solve(order_model(limited, "span"))
        rows = rows_of(limited, starts)
        assert outcome.bound == span_within(limited, makespan + spare) == span
        assert measure(Tasks(limited, "span"), rows) == span
        assert measure(Tasks(limited), rows) <= makespan + spare


def test_a_w_beside_a_whole_backward_ends_in_time_too() -> None:
    """Two whole backwards take 10 ticks; an I and a W in place of the first, behind which nothing waits, do count."""
    problem = Problem.chain(ranks=1, microbatches=2, form="split", forward=0, backward=5, backward_input=2,
                            backward_weight=5, makespan=9)  # fmt: skip
    assert solve(order_model(problem, "span"))[0] == SolverOutcome(closed=True, found=False, bound=None)
    assert solve(order_model(dataclasses.replace(problem, makespan_limit=10), "span"))[0].bound == 10


def test_a_model_with_too_many_pairs_of_steps_leaves_the_makespan_limit_to_others(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By rank half of the square of its steps: 2 stages of 2 micro-batches with F and B, on each of 2 ranks."""
    problem = Problem.chain(**TWO, makespan=99)
    assert keeps_makespan_limit(Tasks(problem))
    assert order_model(problem, "span").early is not None
    monkeypatch.setattr("schedverify.optimizer.model.rules.MOST_PAIRS", 8**2 - 1)
    assert not keeps_makespan_limit(Tasks(problem))
    assert order_model(problem, "span").early is None
    assert MOST_PAIRS >= 8 * (3 * 64) ** 2 // 2


def test_what_makes_a_model_large() -> None:
    model = order_model(Problem.chain(**TWO))
    assert counts_steps(model, (0, 2))
    assert not counts_steps(order_model(Problem.chain(**TWO), without={"fifo"}), (0, 2))
    assert not counts_steps(order_model(Problem.chain(**TWO | {"microbatches": 200})), (0, 2))
