"""The optimizer: known optima proved, every answer verified, what it refuses, how it ends."""

from __future__ import annotations

import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest

from schedverify.core.errors import UnsupportedError
from schedverify.core.problem import Problem
from schedverify.core.result import Status, Verdict
from schedverify.formats import load_problem
from schedverify.optimizer.support import impossible
from schedverify.planner.plans import optimize
from schedverify.verifier.verification import verify

PROBLEMS = Path(__file__).parents[2] / "specs" / "problems"
QUICK = ("uni-p4", "uneven-p4", "uni-p8-m16", "uni-p8-m32-fused")
KNOWN = sorted(
    path for path in PROBLEMS.glob("*.toml")
    if {"makespan", "span"} & set(tomllib.loads(path.read_text(encoding="utf-8"))["expected"])
    and path.stem.startswith(("uni", "uneven", "zb-p8"))
)  # fmt: skip


def prove(path: Path) -> None:
    expected = tomllib.loads(path.read_text(encoding="utf-8"))["expected"]
    problem = load_problem(str(path))
    plan = optimize(problem, time_limit=240)
    assert plan.status is Status.OPTIMAL, plan.reason
    assert plan.value == plan.bound == expected[problem.minimize]
    assert not verify(plan).violations


@pytest.mark.parametrize("path", [p for p in KNOWN if p.stem.startswith(QUICK)], ids=lambda path: path.stem)
def test_a_known_optimum_is_proved(path: Path) -> None:
    prove(path)


@pytest.mark.slow
@pytest.mark.parametrize("path", [p for p in KNOWN if not p.stem.startswith(QUICK)], ids=lambda path: path.stem)
def test_a_hard_known_optimum_is_proved(path: Path) -> None:
    prove(path)


def test_one_worker_and_a_seed_give_the_same_plan() -> None:
    problem = Problem.chain(ranks=3, microbatches=4, forward=[3, 2, 4], backward=[5, 4, 6], latency=1, in_flight=3)
    first, second = (optimize(problem, workers=1, seed=7) for _ in range(2))
    assert first == second
    assert first.status is Status.OPTIMAL


def test_a_stopped_search_keeps_the_best() -> None:
    stop = threading.Event()
    stop.set()
    problem = load_problem(str(PROBLEMS / "uni-p8-m32-c1-cap16.toml"))
    plan = optimize(problem, stop=stop)
    assert plan.status is Status.FEASIBLE
    assert plan.reason == "the search was stopped"
    assert plan.gap
    assert not verify(plan).violations


def test_what_it_cannot_take_is_refused_by_name() -> None:
    overlapped = [{"forward": 0, "backward": 0, "cost": 1}]
    with pytest.raises(UnsupportedError, match="overlapped"):
        optimize(Problem.chain(ranks=1, microbatches=2, overlapped=overlapped))
    with pytest.raises(UnsupportedError, match="period"):
        optimize(Problem.chain(ranks=1, microbatches=2), objective="period")


def test_infeasible_is_a_proof_and_names_the_limits() -> None:
    plan = optimize(Problem.chain(ranks=1, microbatches=1, virtual=2, in_flight=1))
    assert (plan.status, plan.schedule, plan.value) == (Status.INFEASIBLE, None, None)
    assert "in_flight" in plan.reason


@pytest.mark.parametrize("objective", ["makespan", "span"])
@pytest.mark.parametrize(
    ("keys", "verdict"),
    [
        ({"ranks": 2, "microbatches": 2, "placement": "v", "makespan": 15}, Verdict.HOLDS),
        (
            {"ranks": 3, "microbatches": 3, "forward": 2, "backward": 2, "capacity": 3, "makespan": 49},
            Verdict.UNDECIDED,
        ),
    ],
)
def test_what_counts_show_to_be_infeasible_is_evidence_and_the_rest_the_solvers_word(
    keys: dict[str, Any], verdict: Verdict, objective: str
) -> None:
    problem = Problem.chain(**({"virtual": 2, "forward": 1, "backward": 2} | keys))
    assert impossible(problem) is None
    plan = optimize(problem, objective=objective, workers=1)
    assert plan.status is Status.INFEASIBLE
    assert plan.certificate is not None
    assert verify(plan)["SV502"].verdict is verdict
    assert plan.verdicts["SV502"] is verdict


SPLIT: dict[str, Any] = {"form": "split"}


@pytest.mark.parametrize(
    ("keys", "span"),
    [
        ({"ranks": 4, "virtual": 2, "form": "inference", "forward": [2, 4, 0, 0, 2, 2, 4, 3]}, 15),
        # The earliest timeline of every order has a window of 24: stage 1 feeds stage 2 too early for its own good.
        (
            {"ranks": 4, "microbatches": 1, "edges": [[0, 2], [1, 2], [2, 3]], "forward": [5, 2, 1, 5],
             "backward_input": 3, "backward_weight": 4, "backward": [6, 7, 8, 8]}, 23,
        ),
        # The least window of an earliest timeline is 33.
        (
            SPLIT | {"ranks": 2, "forward": [8, 4], "backward_input": [4, 1], "backward_weight": [1, 11], "latency": 1},
            32,
        ),
        (
            SPLIT | {"ranks": 3, "microbatches": 6, "forward": [11, 9, 9], "backward_input": [5, 7, 5],
             "backward_weight": [6, 10, 6], "latency": 2, "activation": 2, "weight_stash": 1, "capacity": 7}, 162,
        ),
    ],
)  # fmt: skip
def test_a_span_is_proved_whose_first_steps_wait(keys: dict[str, Any], span: int) -> None:
    plan = optimize(Problem.chain(**({"microbatches": 2} | keys)), objective="span", workers=1)
    assert (plan.status, plan.value, plan.bound) == (Status.OPTIMAL, span, span)
    assert not verify(plan).violations
    names = [part.name for part in plan.parts]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(("times", "span"), [(1, 52), (2, 103), (3, 155)])
def test_the_mean_of_a_cycle_is_rounded_up_in_ticks(times: int, span: int) -> None:
    """The least mean is 103 / 2, and a common factor of all times does not change how it is rounded."""
    costs = {"forward": [8, 3], "backward_input": [2, 2], "backward_weight": [6, 11]}
    scaled = {name: [times * ticks for ticks in row] for name, row in costs.items()}
    problem = Problem.chain(ranks=2, microbatches=3, form="split", latency=6 * times, **scaled)
    plan = optimize(problem, objective="span", workers=1)
    assert (plan.status, plan.value, plan.bound) == (Status.OPTIMAL, span, span)
    assert not verify(plan).violations


@pytest.mark.parametrize(("makespan", "span"), [(None, 2), (7, 2), (6, 2), (5, None)])
def test_a_makespan_limit_holds_for_the_earliest_timeline(makespan: int | None, span: int | None) -> None:
    """The one order ends at 6, and has a span of 2 in a timeline of 10."""
    shape: dict[str, Any] = {"placement": [0, 1, 1, 2, 2], "edges": [[0, 2], [1, 4]], "latency": 4, "form": "inference"}
    plan = optimize(Problem.chain(ranks=3, microbatches=1, makespan=makespan, **shape), objective="span", workers=1)
    assert (plan.value, plan.bound) == (span, span)
    assert plan.status is (Status.INFEASIBLE if span is None else Status.OPTIMAL)


def test_a_span_stays_open_where_the_model_is_too_large_for_the_makespan_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """The least span of all orders is 35; of those that end by 44 it is 42, which the model alone would prove."""
    monkeypatch.setattr("schedverify.optimizer.model.rules.MOST_PAIRS", 0)
    costs: dict[str, Any] = {"forward": [9, 7], "backward_input": [3, 1], "backward_weight": [0, 8], "latency": 3}
    plan = optimize(
        Problem.chain(ranks=2, microbatches=2, form="split", makespan=44, **costs), objective="span", workers=1
    )
    assert (plan.status, plan.bound) == (Status.FEASIBLE, 35)
    assert plan.value is not None
    assert plan.value >= 42
    assert plan.reason.startswith("too many steps share a rank for a model of orders that keep limits.makespan")
    assert not verify(plan).violations
