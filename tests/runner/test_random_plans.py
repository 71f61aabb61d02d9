"""Optimized plans of random problems, and every family on every number of ranks, train as one process does."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from schedverify import Problem, Schedule, families, optimize
from schedverify.core.result import Plan
from schedverify.planner.plans import plan_of
from support import runner_jobs as jobs
from support.gloo_pool import GlooPool

CLOSE = 1e-10
NUMBERS = range(50)
SAMPLE = (1, 8)
"""Those of three ranks that the default run takes."""


def random_problem(number: int) -> Problem:
    """Return the problem of a number: 2 to 8 ranks, 1 to 3 stages a rank, 1 to 12 micro-batches."""
    rng = random.Random(number)
    ranks, virtual, microbatches = number % 7 + 2, rng.randint(1, 3), rng.randint(1, 12)
    stages = ranks * virtual
    anywhere = [rng.randrange(ranks) for _ in range(stages)]
    keys: dict[str, Any] = {"placement": rng.choice(["loop", "v", anywhere]), "latency": rng.choice([0, 0, 1])}
    keys["forward"] = [rng.randint(1, 4) for _ in range(stages)]
    if number % 3:
        keys |= {"backward_input": rng.randint(1, 4), "backward_weight": rng.randint(1, 4)}
    else:
        keys["backward"] = [rng.randint(1, 6) for _ in range(stages)]
    if rng.random() < 0.5:
        keys["in_flight"] = virtual * rng.randint(ranks, 2 * ranks) if keys["placement"] != anywhere else stages
    return Problem.chain(ranks=ranks, virtual=virtual, microbatches=microbatches, **keys)


def optimized(number: int) -> Plan:
    """Return an optimized plan; of every third number some neighbours I and W of it are run as one B."""
    problem = random_problem(number)
    plan = optimize(problem, time_limit=0.3, workers=1, seed=number)
    assert plan.schedule is not None, plan.reason
    return plan if number % 3 != 1 else plan_of(mixed(plan.schedule, random.Random(number)), problem)


def mixed(schedule: Schedule, rng: random.Random) -> Schedule:
    """Make a B of some I that are followed by their W."""
    rows = []
    for row in schedule.strings():
        made: list[str] = []
        for step in row:
            if made and made[-1].replace("I", "W") == step != made[-1] and rng.random() < 0.7:
                made[-1] = made[-1].replace("I", "B")
            else:
                made.append(step)
        rows.append(made)
    return Schedule.of(rows)


def check(pool: GlooPool, plan: Plan, rows: int = 0) -> None:
    outcomes = pool.run(jobs.train, plan, rows, timeout=120)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert all(outcome.value for outcome in outcomes)
    assert max(outcome.value["error"] for outcome in outcomes) < CLOSE
    assert plan.measures is not None
    assert tuple(outcome.value["peak"] for outcome in outcomes) == plan.measures.peak_in_flight


@pytest.fixture(scope="module")
def pool(request: pytest.FixtureRequest) -> Iterator[GlooPool]:
    with GlooPool(request.param) as pool:
        yield pool


@pytest.mark.parametrize(("pool", "number"), [(3, number) for number in SAMPLE], indirect=["pool"])
def test_optimized_plans(pool: GlooPool, number: int) -> None:
    check(pool, optimized(number))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pool", "number"), [(number % 7 + 2, number) for number in NUMBERS if number not in SAMPLE], indirect=["pool"]
)
def test_more_optimized_plans(pool: GlooPool, number: int) -> None:
    check(pool, optimized(number))


@pytest.mark.slow
@pytest.mark.parametrize("pool", range(1, 9), indirect=True)
def test_families_on_any_number_of_ranks(pool: GlooPool) -> None:
    for family in families():
        for microbatches in (1, 3, 8):
            problem = family.problem(pool.ranks, microbatches)
            check(pool, plan_of(family.generate(problem), problem), microbatches * 3 - 1)
