"""The optimizer: known optima proved, every answer verified, and never better or worse than brute force."""

from __future__ import annotations

import random
import threading
import tomllib
from pathlib import Path
from typing import Any

import pytest

from schedverify.errors import UnsupportedError
from schedverify.formats import load_problem
from schedverify.optimizer.bounds import best_bound
from schedverify.planner import optimize
from schedverify.problem import Problem
from schedverify.result import Status
from schedverify.schedule import Schedule
from schedverify.timeline import simulate
from schedverify.verifier import verify

PROBLEMS = Path(__file__).parent.parent / "specs" / "problems"
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


def random_problem(seed: int) -> Problem:
    """Return a problem so small that all of its orders can be tried."""
    rng = random.Random(seed)
    form = rng.choice(["fused", "split"])
    ranks = rng.choice([1, 2, 2, 3])
    virtual = 2 if ranks < 3 and rng.random() < 0.3 else 1
    stages = ranks * virtual
    most = {"fused": {1: 3, 2: 2, 3: 2, 4: 1}, "split": {1: 2, 2: 2, 3: 1, 4: 1}}
    microbatches = rng.randint(1, most[form][stages])
    cost = {
        name: [rng.randint(1, 4) for _ in range(stages)] for name in ("forward", "backward_input", "backward_weight")
    }
    keys: dict[str, Any] = {"latency": rng.choice([0, 0, 1, 3]), "activation": 2, "weight_stash": 1}
    if rng.random() < 0.5:
        keys["capacity"] = rng.randint(2, 6) * virtual
    if rng.random() < 0.3:
        keys["in_flight"] = rng.randint(virtual, 3)
    if form == "split" and rng.random() < 0.3:
        keys["backward"] = [rng.randint(1, 4) for _ in range(stages)]
    placement = rng.choice(["loop", "v"])
    return Problem.chain(
        ranks=ranks, microbatches=microbatches, virtual=virtual, placement=placement, form=form, **cost, **keys
    )


def brute_force(problem: Problem) -> dict[str, int | None]:
    """Return the least makespan and span over all valid orders, found by running them all, step by step."""
    best: dict[str, int | None] = {"makespan": None, "span": None}
    seen: set[tuple[tuple[str, ...], ...]] = set()
    needs_w = problem.form == "split"

    def ready(rank: int, done: set[str]) -> list[str]:
        found = []
        for stage in problem.stages_of[rank]:
            for m in range(problem.microbatches):
                f, b, i, w = (f"{stage}{kind}{m}" for kind in "FBIW")
                if f not in done:
                    if all(f"{s}F{m}" in done for s in problem.predecessors[stage]):
                        found.append(f)
                elif b not in done and i not in done:
                    if all(f"{s}B{m}" in done or f"{s}I{m}" in done for s in problem.successors[stage]):
                        found += [b, i] if needs_w else [b]
                elif i in done and w not in done:
                    found.append(w)
        return found

    def go(rows: tuple[tuple[str, ...], ...], done: set[str]) -> None:
        if rows in seen:
            return
        seen.add(rows)
        moves = [(rank, op) for rank in range(problem.ranks) for op in ready(rank, done)]
        if not moves:
            schedule = Schedule.of(rows)
            if verify(schedule, problem, select=["SV4"]).ok:
                timeline = simulate(schedule, problem)
                for objective, known in best.items():
                    value = int(getattr(timeline, objective))
                    best[objective] = value if known is None else min(known, value)
        for rank, op in moves:
            go((*rows[:rank], (*rows[rank], op), *rows[rank + 1 :]), done | {op})

    go(((),) * problem.ranks, set())
    return best


@pytest.mark.parametrize("chunk", range(4))
def test_the_optimizer_equals_brute_force(chunk: int) -> None:
    for seed in range(chunk * 25, chunk * 25 + 25):
        try:
            problem = random_problem(seed)
        except ValueError:
            continue  # the drawn capacity does not hold one micro-batch
        for objective, truth in brute_force(problem).items():
            plan = optimize(problem, objective=objective, workers=1, time_limit=30)
            story = f"seed {seed}, {objective}: {problem}"
            bound = best_bound(problem, objective)
            assert plan.value == truth, story
            assert plan.status is (Status.INFEASIBLE if truth is None else Status.OPTIMAL), story
            assert truth is None or bound is None or bound.value <= truth, story


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
