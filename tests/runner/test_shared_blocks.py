"""What blocks share over stages is summed by ``run``, whatever is tied; what the plan does not join is told."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from schedverify import Problem, generate
from schedverify.core.errors import InputError
from schedverify.core.result import Plan
from schedverify.planner.plans import plan_of
from schedverify.runner.launch.shared_blocks import shared_by_blocks
from schedverify.runner.launch.source import load_source, parts_of, stages_of
from support import sharing_models as models
from support.gloo_pool import GlooPool

pytestmark = pytest.mark.xdist_group("runner")


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(3) as pool:
        yield pool


def plan_for(**keys: Any) -> Plan:
    problem = Problem.chain(**{"ranks": 3, "microbatches": 4} | keys)
    return plan_of(generate("gpipe", problem), problem)


def shared_in(make: Callable[[], Any], plan: Plan) -> dict[str, dict[int, str]]:
    source = load_source(f"support.sharing_models:{make.__name__}", 4)
    return shared_by_blocks(plan.problem, parts_of(plan, source.blocks))


TIED = [[0, 1, 2]]


def test_weights_are_named_as_the_stages_have_them() -> None:
    plan = plan_for(tied=TIED)
    assert shared_in(models.tied, plan) == {"0.weight": {0: "0.weight", 2: "0.weight"}}
    assert shared_in(models.on_all_stages, plan) == {"0.weight": {0: "0.weight", 1: "0.table", 2: "0.weight"}}
    assert shared_in(models.with_two_weights, plan) == {
        "0.table": {0: "0.table", 1: "0.table", 2: "0.table"},
        "0.scale": {0: "0.scale", 2: "0.scale"},
    }
    assert shared_in(models.untied, plan) == {}


@pytest.mark.parametrize("keys", [{}, {"placement": [0, 1, 0]}, {"replicas": 2, "placement": [[0, 1, 2], [2, 1, 0]]}])
@pytest.mark.parametrize("make", models.MODELS)
def test_losses_are_those_of_one_process(pool: GlooPool, make: Any, keys: dict[str, Any]) -> None:
    outcomes = pool.run(models.run, plan_for(tied=TIED, **keys), make.__name__, 3, 0.5)
    expected = models.losses_of(make, 3, 0.5)
    for outcome in outcomes:
        assert outcome.value == pytest.approx(expected, rel=1e-10), outcome


@pytest.mark.parametrize("make", [models.tied, models.with_a_bias])
def test_a_plan_that_does_not_join_what_is_shared_is_refused(pool: GlooPool, make: Any) -> None:
    for outcome in pool.run(models.run, plan_for(tied=[[0, 1]]), make.__name__, 1, 0.5):
        assert outcome.value == (
            "InputError: problem.tied: blocks of the model share a weight, '0.weight' (stage 0), '3.weight' (stage 2), "
            "and the plan does not tie their stages (plan a problem with tied = [[0, 2]], as partition writes it)"
        )


def test_what_one_rank_shares_or_nobody_trains_needs_no_tie() -> None:
    on_one_rank = plan_for(placement=[0, 1, 0])
    assert shared_in(models.with_a_bias, on_one_rank) == {"0.weight": {0: "0.weight", 2: "0.weight"}}
    assert shared_in(models.frozen, plan_for())
    assert shared_in(models.tied, plan_for(form="inference"))
    with pytest.raises(InputError, match=r"'0\.table' \(stage 0\), '2\.table' \(stage 1\), '3\.table' \(stage 2\)"):
        shared_in(models.with_two_weights, plan_for(tied=[[0, 2]]))


def test_copies_keep_on_a_rank_what_their_stages_share() -> None:
    plan = plan_for(ranks=1, replicas=2, stages=3, placement=[[0, 0, 0], [0, 0, 0]])
    source = load_source("support.sharing_models:tied", 4)
    made = stages_of(plan, source.blocks, 0)
    assert made[0][0].weight is made[2][0].weight
    assert made[3][0].weight is made[5][0].weight
    assert made[0][0].weight is not made[3][0].weight
