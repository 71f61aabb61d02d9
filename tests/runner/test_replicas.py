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


INSIDE = "the stage itself is not wrapped by it (wrap the whole stage, and wrap it last"
NOTHING_KNOWN = (
    "whose reductions nothing is known of (use DistributedDataParallel or fully_shard, or give Runner the plain"
)
TWICE = "and data_parallel is given: its gradients would be averaged twice (give one of the two)"
PASSED_OVER = "which a step would pass over (leave it out"
REFUSED = [
    (jobs.two_within, "its part 'first' is a DistributedDataParallel", INSIDE),
    (jobs.sharded_within, "its part 'first' is a FSDPBlock", INSIDE),
    (jobs.wrapped_twice, "its part 'module' is a DistributedDataParallel", INSIDE),
    (jobs.compiled, "its part '_orig_mod' is a DistributedDataParallel", INSIDE),
    (jobs.fsdp_of_old, "it is a FullyShardedDataParallel", NOTHING_KNOWN),
    (jobs.data_parallel, "it is a DataParallel", NOTHING_KNOWN),
    (jobs.unknown, "it is a Engine", NOTHING_KNOWN),
    (jobs.with_hook, "its DistributedDataParallel has a communication hook (register_comm_hook)", PASSED_OVER),
    (jobs.with_forward_hook, "its DistributedDataParallel has hooks on itself", PASSED_OVER),
    (jobs.of_another_torch, "fully_shard of this torch has no post_forward_mesh_info", "use torch 2.13"),
]  # fmt: skip


def refusals(pool: GlooPool, wrap: Any, both: bool) -> list[str]:
    outcomes = pool.run(jobs.refusal, plan("zb-h1"), wrap, both)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    return [outcome.value for outcome in outcomes]


@pytest.mark.parametrize(("wrap", "found", "cure"), REFUSED, ids=lambda value: getattr(value, "__name__", ""))
def test_what_could_not_be_right_is_refused_on_every_rank(pool: GlooPool, wrap: Any, found: str, cure: str) -> None:
    for told in refusals(pool, wrap, both=False):
        assert f"stages[1]: {found}" in told
        assert cure in told


@pytest.mark.parametrize(("wrap", "kind"), [(jobs.ddp, "DistributedDataParallel"), (jobs.fsdp, "fully_shard")])
def test_who_averages_is_said_once(pool: GlooPool, wrap: Any, kind: str) -> None:
    for told in refusals(pool, wrap, both=True):
        assert f"stages[1]: it is wrapped by {kind}, {TWICE}" in told


def test_buffers_are_those_that_ddp_keeps(pool: GlooPool) -> None:
    ours, theirs = ([each.value for each in pool.run(jobs.buffers, plan("1f1b"), who)] for who in (True, False))
    assert ours == theirs
    assert len({str(each) for each in ours}) == 4


def test_what_the_plan_unshards_is_gathered_in_between_and_nothing_else(pool: GlooPool) -> None:
    for gather in (False, True):
        for rank, outcome in enumerate(pool.run(jobs.gathered, plan("zb-h1", shards=gather, reduces=True))):
            assert outcome.error is None
            *found, (_, after) = outcome.value
            names = [text.lstrip("0123") for text, _ in found]
            first, last = (names.index(name) for name in ("UNSHARD", "RESHARD")) if gather else (0, len(names))
            reduced = names.index("REDUCE_GRAD")
            expected = [first <= i < min(last, reduced) for i in range(len(names))]
            assert [count > 0 for _, count in found] == expected, (rank, found)
            assert after == 0


@pytest.mark.parametrize("wrapper", ["ddp_with_views", "fsdp", "fsdp_within"])
def test_outside_of_steps_a_wrapped_stage_reduces_as_ever(pool: GlooPool, wrapper: str) -> None:
    outcomes = pool.run(jobs.outside, plan("zb-h1"), wrapper)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert max(outcome.value for outcome in outcomes) < 1e-10


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp_within"])
def test_a_failure_ends_the_other_pipeline_too(wrapper: str) -> None:
    with GlooPool(4) as pool:
        outcomes = pool.run(jobs.fails, plan("1f1b"), wrapper)
    assert not any(outcome.hung for outcome in outcomes)
    told = [outcome.value for outcome in outcomes]
    assert "ZeroDivisionError" in told[0]
    assert all(each.startswith(f"rank {rank % 2}, ") for rank, each in enumerate(told)), told


@pytest.mark.parametrize("wrapper", ["data_parallel", *jobs.WRAPPERS])
@pytest.mark.parametrize("reduces", [False, True])
def test_stages_with_shared_weights(pool: GlooPool, wrapper: str, reduces: bool) -> None:
    for family, name in (("1f1b", "first.up.weight"), ("zb-h1", "odd.weight"), ("1f1b", "")):
        found = errors(pool, plan(family, reduces=reduces, tied=[[0, 1]]), wrapper, jobs.Layered, 2, name)
        assert found < CLOSE.get(wrapper, 1e-10)


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp_within"])
def test_copies_of_a_model(pool: GlooPool, wrapper: str) -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=4, replicas=2, placement=[[0, 1], [1, 0]])
    assert errors(pool, plan_of(sv.generate("gpipe", problem), problem), wrapper, jobs.Layered, 2) < 1e-10


def test_a_weight_that_is_shared_by_two_stages_is_sharded_in_both(pool: GlooPool) -> None:
    outcomes = pool.run(jobs.half_sharded, plan("1f1b", tied=[[0, 1]]))
    for outcome in outcomes:
        assert "weight of stage 0 on rank 0 and" in outcome.value
        assert "are one weight, here they are float64 12 x 6 and float64 12 x 6 in part" in outcome.value


@pytest.mark.parametrize("replicated", [False, True])
@pytest.mark.parametrize("family", ["1f1b", "zb-h1"])
def test_meshes_of_several_axes(pool: GlooPool, family: str, replicated: bool) -> None:
    outcomes = pool.run(jobs.in_two_axes, plan(family, ranks=1), replicated)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    assert max(outcome.value for outcome in outcomes) < 1e-10


@pytest.mark.parametrize("wrapper", ["ddp", "fsdp_within"])
def test_losses_that_count_rows_count_those_of_all_replicas(pool: GlooPool, wrapper: str) -> None:
    for reduces in (False, True):
        outcomes = pool.run(jobs.of_counted_rows, plan("zb-h1", reduces=reduces), wrapper)
        assert [outcome.error for outcome in outcomes if outcome.error] == []
        assert max(outcome.value for outcome in outcomes) < 1e-10


def test_means_keep_what_is_sparse_and_what_is_absent(pool: GlooPool) -> None:
    rows = [[0.25, 0.25], [0.25, 0.25], [0.0, 0.0], [0.5, 0.5], [0.0, 0.0]]
    assert [each.value for each in pool.run(jobs.mean_of_sparse)] == [[True, rows, [[0.25, 0.25]], [None, None]]] * 4
