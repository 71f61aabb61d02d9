"""Random small models, in random pipelines, train as one process does: gradients, buffers and losses."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

pytest.importorskip("torch", reason="torch is not installed")

from hypothesis import HealthCheck, Phase, given, settings

from schedverify.planner.plans import plan_of
from support import random_model_jobs as jobs
from support import random_models
from support.gloo_pool import GlooPool
from support.random_models import Drawn

pytestmark = pytest.mark.xdist_group("random models")
CLOSE = 1e-9
"""The most relative error, in double precision."""
WORDS = [word for word in random_models.WORDS if word not in ("checkpointed", *random_models.INPLACE)]
MODELS = random_models.models(words=WORDS, recompute=False)
DRAWN = settings(
    derandomize=True,
    database=None,
    deadline=None,
    phases=[Phase.generate],  # a failing example ends its processes, and to shrink it would take minutes
    suppress_health_check=list(HealthCheck),
)


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(random_models.RANKS) as pool:
        yield pool


def check(pool: GlooPool, drawn: Drawn) -> None:
    plan = plan_of(random_models.order(drawn), random_models.problem(drawn))
    outcomes = pool.run(jobs.train, plan, drawn, timeout=60)
    assert [outcome.error for outcome in outcomes if outcome.error] == [], drawn
    found = [outcome.value for outcome in outcomes]
    assert all(found), outcomes
    errors = {name: error for each in found for name, error in each.errors.items()}
    assert errors.keys() == random_models.states(drawn)
    assert {name: error for name, error in errors.items() if not error < CLOSE} == {}
    for step, loss in enumerate(found[0].losses):
        shares = [each.shares[step] for each in found]
        assert sum(share for share in shares if share is not None) == pytest.approx(loss, rel=CLOSE)


@settings(DRAWN, max_examples=20)
@given(MODELS)
def test_a_random_model_trains_as_one_process_does(pool: GlooPool, drawn: Drawn) -> None:
    check(pool, drawn)


@pytest.mark.slow
@settings(DRAWN, max_examples=200)
@given(MODELS)
def test_more_random_models(pool: GlooPool, drawn: Drawn) -> None:
    check(pool, drawn)
