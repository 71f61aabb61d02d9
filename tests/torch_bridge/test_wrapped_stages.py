"""Stages wrapped for their replicas in PyTorch's own runtime: trained as in one process, or refused on every rank."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

import pytest

pytest.importorskip("torch", reason="torch is not installed")

import schedverify as sv
from schedverify.core.result import Plan
from schedverify.lowering import add_sharding
from schedverify.planner.plans import plan_of
from support import replica_jobs as jobs
from support.gloo_pool import GlooPool

UNDER_I_AND_W = "and the plan splits their backward in I and W"
WHOLE, SPLIT = "1f1b", "zb-h1"


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(4) as pool:
        yield pool


def plan(family: str, *, shards: bool = False) -> Plan:
    problem = sv.Problem.chain(ranks=2, microbatches=4, form="split" if family == SPLIT else "fused")
    lowered = sv.lower(sv.generate(family, problem), problem)
    return plan_of(add_sharding(lowered, problem) if shards else lowered, problem)


def told(pool: GlooPool, wrap: Callable[..., Any], family: str, *, shards: bool = False) -> list[Any]:
    outcomes = pool.run(jobs.in_torch, plan(family, shards=shards), wrap, timeout=120)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    return [outcome.value for outcome in outcomes]


RIGHT = [
    (jobs.ddp, WHOLE, False), (jobs.fsdp, WHOLE, True), (jobs.fsdp, SPLIT, True), (jobs.fsdp_within, WHOLE, True),
    (jobs.fsdp_that_frees, WHOLE, True), (jobs.fsdp_that_keeps, SPLIT, True),
]  # fmt: skip


@pytest.mark.parametrize(("wrap", "family", "shards"), RIGHT)
def test_what_is_loaded_trains_as_one_process_does(pool: GlooPool, wrap: Any, family: str, shards: bool) -> None:
    assert max(told(pool, wrap, family, shards=shards)) < 1e-10


WRONG = [
    (jobs.ddp, SPLIT, False, f"wrapped in DistributedDataParallel, {UNDER_I_AND_W}"),
    (jobs.ddp_static, WHOLE, False, "wrapped in DistributedDataParallel with static_graph"),
    (jobs.fsdp_within, SPLIT, True, f"sharded (FSDP) so that weights are freed behind a forward, {UNDER_I_AND_W}"),
    (jobs.fsdp_that_frees, SPLIT, True, f"sharded (FSDP) so that weights are freed behind a forward, {UNDER_I_AND_W}"),
]


@pytest.mark.parametrize(("wrap", "family", "shards", "found"), WRONG)
def test_what_would_train_wrongly_is_refused(pool: GlooPool, wrap: Any, family: str, shards: bool, found: str) -> None:
    for rank, text in enumerate(told(pool, wrap, family, shards=shards)):
        assert f"the stages [{rank % 2}] given are {found}" in text
        assert text.startswith("the plan is not run:")
        assert "Runner trains them with this plan" in text


@pytest.mark.slow
@pytest.mark.parametrize(("wrap", "family", "shards", "found"), WRONG)
def test_it_would_train_wrongly(pool: GlooPool, wrap: Any, family: str, shards: bool, found: str) -> None:
    values = [outcome.value for outcome in pool.run(unrefused, plan(family, shards=shards), wrap, timeout=120)]
    assert max(values) > 0.01


def unrefused(rank: int, plan: Plan, wrap: Any) -> Any:
    with mock.patch("schedverify.torch_bridge.loading.objection_to_wrapped", return_value=""):
        return jobs.in_torch(rank, plan, wrap)


@pytest.mark.parametrize("wrap", [jobs.fsdp_of_old, jobs.data_parallel, jobs.two_within, jobs.sharded_within])
def test_wrappers_that_nothing_is_known_of_are_refused(pool: GlooPool, wrap: Any) -> None:
    for text in told(pool, wrap, WHOLE):
        assert "rank 0: stage 0: it" in text
        assert "reductions nothing is known of" in text or "the stage itself is not wrapped by it" in text


def test_sharded_stages_that_are_never_gathered_are_refused(pool: GlooPool) -> None:
    for text in told(pool, jobs.fsdp, WHOLE):
        assert "rank 0: the stages [0] given are sharded (FSDP), the plan has no UNSHARD for them" in text
        assert "schedverify lower --unshard" in text
