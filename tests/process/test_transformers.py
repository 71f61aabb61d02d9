"""Models of transformers, cut into pipelines, have the gradients that one process has.

Where nothing is reduced between ranks they are the same bit by bit: the same operations on the same numbers, summed in
the order of the plan.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")
pytest.importorskip("transformers", reason="transformers is not installed")

from schedverify import Problem, generate, optimize
from schedverify.core.result import Plan
from schedverify.planner.plans import plan_of
from support import memory_jobs, precision_jobs
from support import training_jobs as jobs
from support.gloo_pool import GlooPool

pytestmark = pytest.mark.xdist_group("transformers")
CLOSE = 1e-5
MODELS = {"gpt2": set(), "gpt2-tied": {"transformer.wte.weight"}, "t5": {"shared.weight"}, "llama": set()}
"""By model, the weights that stages share."""
SCHEDULES = ("1f1b", "zb-h1", "interleaved-1f1b", "zb-v", "optimized")
RANKS, MICROBATCHES = 2, 4


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(RANKS) as pool:
        yield pool


@cache
def plan(schedule: str, *, recompute: bool = False) -> Plan:
    """Return a plan of two ranks, with stages whose backward takes three times their forward."""
    shape: dict[str, Any] = {"interleaved-1f1b": {"virtual": 2}, "zb-v": {"virtual": 2, "placement": "v"}}
    problem = Problem.chain(
        ranks=RANKS, microbatches=MICROBATCHES, form="split", forward=2, backward_input=2, backward_weight=4,
        recompute=recompute, **shape.get(schedule, {}),
    )  # fmt: skip
    if schedule == "optimized":
        return optimize(problem, time_limit=10, workers=1)
    return plan_of(generate(schedule, problem), problem)


def check(pool: GlooPool, given: Plan, model: str, kind: str = "plain") -> set[str]:
    """Train a step: gradients and loss are close to one process; return the weights where they are not the same."""
    outcomes = pool.run(jobs.train, given, model, kind, timeout=120)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    found = [outcome.value for outcome in outcomes]
    assert all(found), outcomes
    errors = {name: error for each in found for name, error in each.errors.items()}
    assert set(errors) == found[0].weights
    assert {name: error for name, error in errors.items() if not error < CLOSE} == {}
    assert sum(each.share for each in found if each.share is not None) == pytest.approx(found[0].loss, rel=1e-6)
    return {name for name, error in errors.items() if error}


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("model", MODELS)
def test_gradients_are_those_of_one_process(pool: GlooPool, model: str, schedule: str, recompute: bool) -> None:
    assert check(pool, plan(schedule, recompute=recompute), model) <= MODELS[model]


@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("model", MODELS)
def test_checkpoints_within_a_stage(pool: GlooPool, model: str, schedule: str, recompute: bool) -> None:
    assert check(pool, plan(schedule, recompute=recompute), model, "checkpointed") <= MODELS[model]


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
@pytest.mark.parametrize("model", MODELS)
def test_stages_compiled_by_inductor(pool: GlooPool, model: str, schedule: str) -> None:
    check(pool, plan(schedule), model, "inductor")


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
def test_compiled_stages(pool: GlooPool, schedule: str) -> None:
    assert check(pool, plan(schedule), "gpt2", "aot_eager") == set()


@pytest.mark.parametrize("schedule", ["1f1b", "zb-h1"])
@pytest.mark.parametrize("recompute", [False, True], ids=["kept", "recomputed"])
@pytest.mark.parametrize("way", precision_jobs.WAYS)
@pytest.mark.parametrize("model", MODELS)
def test_low_precision_costs_no_more_than_in_one_process(
    pool: GlooPool, model: str, way: str, recompute: bool, schedule: str
) -> None:
    outcomes = pool.run(precision_jobs.compare, plan(schedule, recompute=recompute), model, way, timeout=120)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    weights = {name: squares for outcome in outcomes for name, squares in outcome.value.items()}
    planned, alone = (sum(each[i] for each in weights.values()) for i in range(2))
    assert alone > 0, "low precision costs something"
    assert planned <= 2**2 * alone


@pytest.mark.parametrize(("family", "split"), [("1f1b", False), ("gpipe", False), ("zb-h1", True)])
@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_a_run_holds_the_bytes_that_a_profile_predicts(pool: GlooPool, model: str, family: str, split: bool) -> None:
    found = memory_jobs.predicted(model, family, ranks=RANKS, microbatches=6, split=split)
    outcomes = pool.run(memory_jobs.held, found.plan, model, found.parts, split, timeout=120)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert [outcome.value.weights for outcome in outcomes] == found.weights
    for outcome, predicted in zip(outcomes, found.in_flight, strict=True):
        assert abs(outcome.value.in_flight / predicted - 1) < 0.05


@pytest.fixture(scope="module")
def square() -> Iterator[GlooPool]:
    with GlooPool(2 * RANKS) as pool:
        yield pool


@pytest.mark.slow
@pytest.mark.parametrize("schedule", ["1f1b", "zb-v"])
@pytest.mark.parametrize("way", ["data_parallel", "ddp", "fsdp"])
@pytest.mark.parametrize("model", MODELS)
def test_two_pipelines_on_halves_of_a_batch(square: GlooPool, model: str, way: str, schedule: str) -> None:
    outcomes = square.run(jobs.train_replicas, plan(schedule), model, way, timeout=120)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    found = [outcome.value for outcome in outcomes]
    for pipeline in (found[:RANKS], found[RANKS:]):
        errors = {name: error for each in pipeline for name, error in each.items()}
        assert {name: error for name, error in errors.items() if not error < CLOSE} == {}
