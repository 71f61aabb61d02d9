"""Weights that stages share get the gradients of one process, whatever else the stages have, on whatever ranks."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from torch import nn

from schedverify import Problem, Schedule, generate
from schedverify.core.result import Plan
from schedverify.planner.plans import plan_of
from support import sharing_jobs as jobs
from support.gloo_pool import GlooPool

pytestmark = pytest.mark.xdist_group("runner")
CLOSE = 1e-10
"""The greatest difference of a gradient, in double precision."""


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(3) as pool:
        yield pool


def plan_for(family: str = "1f1b", **keys: Any) -> Plan:
    problem = Problem.chain(**{"ranks": 3, "microbatches": 4, "form": "split"} | keys)
    return plan_of(generate(family, problem), problem)


def worst(pool: GlooPool, job: Any, *arguments: Any) -> float:
    outcomes = pool.run(job, *arguments)
    assert [outcome.error for outcome in outcomes if outcome.error] == []
    return max(outcome.value for outcome in outcomes)


@pytest.mark.parametrize("family", ["1f1b", "zb-h1", "gpipe"])
@pytest.mark.parametrize("case", list(jobs.models()))
def test_gradients_add_up_to_those_of_one_process(pool: GlooPool, case: str, family: str) -> None:
    tied = [[0, 2]] if "tied" in case else []
    assert worst(pool, jobs.add_up, plan_for(family, tied=tied), case) < CLOSE


@pytest.mark.parametrize("placement", [[0, 1, 0], [1, 1, 0], [2, 2, 2]], ids=str)
@pytest.mark.parametrize("case", list(jobs.models()))
def test_within_a_rank_identity_decides(pool: GlooPool, case: str, placement: list[int]) -> None:
    tied = [[0, 2]] if "tied" in case else []
    assert worst(pool, jobs.add_up, plan_for("gpipe", placement=placement, tied=tied), case) < CLOSE


@pytest.mark.parametrize("case", list(jobs.models()))
def test_copies_of_a_model_share_what_their_stages_share(pool: GlooPool, case: str) -> None:
    tied = [[0, 2]] if "tied" in case else []
    keys = {"replicas": 2, "placement": [[0, 1, 2], [2, 1, 0]], "tied": tied}
    assert worst(pool, jobs.add_up, plan_for("gpipe", **keys), case) < CLOSE


def test_tied_stages_of_one_rank_need_no_equal_names(pool: GlooPool) -> None:
    plan = plan_for("gpipe", placement=[0, 1, 0], tied=[[0, 2]])
    assert worst(pool, jobs.add_up_by_identity, plan) < CLOSE


@pytest.mark.parametrize("waits", [False, True])
def test_a_reduction_waits_for_all_stages_of_its_rank_that_share_the_weight(pool: GlooPool, waits: bool) -> None:
    problem = Problem.chain(ranks=1, microbatches=2, stages=3, placement=[0, 0, 0])
    order = (
        "0F0 1F0 2F0 0F1 1F1 2F1 2B0 1B0 0B0 2B1 2REDUCE_GRAD 1B1 2WAIT_REDUCE_GRAD "
        "1REDUCE_GRAD 0B1 1WAIT_REDUCE_GRAD 0REDUCE_GRAD 0WAIT_REDUCE_GRAD"
    )
    order = order if waits else " ".join(step for step in order.split() if "WAIT" not in step)
    plan = plan_of(Schedule.parse(order), problem)
    assert worst(pool, jobs.add_up_in_replicas, plan) < CLOSE


@pytest.mark.parametrize("kind", ["sparse and dense", "sparse", "none", "frozen"])
@pytest.mark.parametrize("replicas", [1, 2])
def test_kinds_of_gradients_stay_what_they_are(pool: GlooPool, kind: str, replicas: int) -> None:
    plan = plan_for("gpipe", replicas=replicas, form="fused")
    assert worst(pool, jobs.kinds_of_gradients, plan, kind) < CLOSE


def test_sharded_weights_are_summed_part_by_part(pool: GlooPool) -> None:
    assert [outcome.value for outcome in pool.run(jobs.sum_of_parts)] == [[[3, 0], [0, 3]]] * 3


def linear(width: int = 4, **options: Any) -> nn.Linear:
    return nn.Linear(4, width, **options)


def frozen() -> nn.Linear:
    return linear().requires_grad_(False)


TIED = {"tied": [[0, 2]]}
REFUSED = {
    "shapes": (
        [linear(), linear(), linear(5)], TIED, {},
        "stages 0 and 2 are tied, and their weights differ in name or shape: "
        "stage 0 alone has bias (float32 4), weight (float32 4 x 4); "
        "stage 2 alone has bias (float32 5), weight (float32 5 x 4); name what they share, such as Runner(..., shared=",
    ),
    "numbers of weights": (
        [linear(bias=False), linear(), linear()], TIED, {},
        "stage 0 alone has none; stage 2 alone has bias (float32 4); name what they share, such as "
        "Runner(..., shared={'weight': [0, 2]})",
    ),
    "names": (
        [linear(bias=False), linear(), nn.Sequential(linear(bias=False))], TIED, {},
        "such as Runner(..., shared={'weight': {0: 'weight', 2: '0.weight'}})",
    ),
    "dtypes": (
        [linear(), linear(), linear().double()], {}, {"shared": {"weight": [0, 2]}},
        "weight of stage 0 on rank 0 and weight of stage 2 on rank 2 are one weight, "
        "here they are float32 4 x 4 and float64 4 x 4",
    ),
    "freezing": (
        [frozen(), linear(), linear()], TIED, {},
        "bias of stage 0 on rank 0 is frozen, bias of stage 2 on rank 2 is not, and they are one weight",
    ),
    "different words": (
        [linear(), linear(), linear()], {}, [{"shared": {"weight": [0, 2]}}] * 2 + [{"shared": {"bias": [0, 2]}}],
        "rank 2: shared is not what it is on rank 0",
    ),
    "one rank alone": (
        [linear(), linear(), linear()], {}, [{"shared": {"weight": [0, 2]}}, {}, {}],
        "rank 0: it was asked for shared, others were not",
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", list(REFUSED))
def test_what_cannot_be_shared_is_refused_on_all_ranks(pool: GlooPool, case: str) -> None:
    modules, keys, options, text = REFUSED[case]
    outcomes = pool.run(jobs.make, plan_for(**keys), modules, options)
    told = {outcome.value for outcome in outcomes}
    assert len(told) == 1, outcomes
    assert next(iter(told)).startswith("RefusedError: the plan is not run:\n")
    assert text in next(iter(told))


@pytest.mark.parametrize(
    ("shared", "text"),
    [
        ({"weight": [0]}, "shared['weight']: expected the stages that share a weight, found a list of 1"),
        ({"weight": [0, 3]}, "at least two of the stages 0 to 2"),
        ({"weight": {0: "weight", 2: 5}}, "expected the stages that share a weight"),
        ({"weigth": [0, 2]}, "stage 0 has no weight called 'weigth'"),
        ([0, 2], "shared: expected shared weights with their stages, found a list of 2"),
    ],
)
def test_shared_weights_that_there_are_not_are_told(pool: GlooPool, shared: Any, text: str) -> None:
    outcomes = pool.run(jobs.make, plan_for(), [linear(), linear(), linear()], {"shared": shared})
    assert text in outcomes[0].value
    assert outcomes[0].value.startswith("InputError: ")
    assert "shared" in outcomes[1].value
