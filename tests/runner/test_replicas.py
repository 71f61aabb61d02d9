"""Stages with replicas in other pipelines train as one process does on the whole batch, whoever averages gradients."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import schedverify as sv
from schedverify.core.result import Plan
from schedverify.lowering import add_reduction, add_sharding
from schedverify.planner.plans import plan_of
from support import replica_jobs as jobs
from support.gloo_pool import GlooPool

pytestmark = pytest.mark.xdist_group("runner")
CLOSE = {"fsdp_mixed": 1e-5}
FAMILIES = {
    "1f1b": {}, "zb-h1": {"form": "split"}, "interleaved-1f1b": {"virtual": 2},
    "zb-v": {"form": "split", "virtual": 2, "placement": "v"},
}  # fmt: skip


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(4) as pool:
        yield pool


def plan(family: str, *, reduces: bool = False, shards: bool = False, **keys: Any) -> Plan:
    problem = sv.Problem.chain(**{"ranks": 2, "microbatches": 4, **FAMILIES[family], **keys})
    lowered = sv.lower(sv.generate(family, problem), problem)
    lowered = add_sharding(lowered, problem) if shards else lowered
    return plan_of(add_reduction(lowered, problem) if reduces else lowered, problem)


def errors(pool: GlooPool, *arguments: Any) -> float:
    outcomes = pool.run(jobs.train, *arguments)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert not any(outcome.hung for outcome in outcomes)
    return max(outcome.value for outcome in outcomes)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("wrapper", ["data_parallel", *jobs.WRAPPERS])
def test_wrapped_stages_train_as_one_process_does(pool: GlooPool, wrapper: str, family: str) -> None:
    assert errors(pool, plan(family), wrapper) < CLOSE.get(wrapper, 1e-10)


@pytest.mark.parametrize("family", ["1f1b", "zb-v"])
@pytest.mark.parametrize("wrapper", ["data_parallel", "ddp", "fsdp", "fsdp_within", "fsdp_mixed"])
@pytest.mark.parametrize("shards", [False, True])
def test_gradients_are_reduced_where_the_plan_says(pool: GlooPool, wrapper: str, family: str, shards: bool) -> None:
    if shards and not wrapper.startswith("fsdp"):
        pytest.skip("it has nothing to gather")
    found = errors(pool, plan(family, reduces=True, shards=shards), wrapper)
    assert found < CLOSE.get(wrapper, 1e-10)


@pytest.mark.parametrize("family", ["1f1b", "zb-v"])
@pytest.mark.parametrize("wrapper", ["data_parallel", *jobs.WRAPPERS])
@pytest.mark.parametrize("kind", [jobs.Layered, jobs.Sometimes])
def test_gradients_of_steps_add_up(pool: GlooPool, wrapper: str, family: str, kind: Any) -> None:
    assert errors(pool, plan(family), wrapper, kind, 3) < CLOSE.get(wrapper, 1e-10)


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp_within"])
def test_stages_that_run_again_in_their_backward(pool: GlooPool, wrapper: str) -> None:
    for family in ("1f1b", "zb-h1"):
        assert errors(pool, plan(family, recompute=True), wrapper) < 1e-10
