"""The optimizer: known optima proved, every answer verified, what it refuses, how it ends."""

from __future__ import annotations

import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest

from schedverify.core.errors import UnsupportedError
from schedverify.core.problem import Problem
from schedverify.core.result import Status
from schedverify.formats import load_problem
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


@pytest.mark.parametrize(
    ("keys", "span"),
    [
        # What rank 1 begins with waits where stage 0 takes the second micro-batch first: in such an order alone.
        ({"ranks": 4, "virtual": 2, "form": "inference", "forward": [2, 4, 0, 0, 2, 2, 4, 3]}, 15),
        # Stage 1 feeds stage 2 too early for its own good, whatever the order.
        (
            {"ranks": 4, "microbatches": 1, "edges": [[0, 2], [1, 2], [2, 3]], "forward": [5, 2, 1, 5],
             "backward_input": 3, "backward_weight": 4, "backward": [6, 7, 8, 8]}, 24,
        ),
    ],
)  # fmt: skip
def test_a_span_is_proved_where_first_steps_would_like_to_wait(keys: dict[str, Any], span: int) -> None:
    plan = optimize(Problem.chain(**({"microbatches": 2} | keys)), objective="span", workers=1)
    assert (plan.status, plan.value, plan.bound) == (Status.OPTIMAL, span, span)
