"""The optimizer against brute force on everything hypothesis makes that is tiny: values, statuses, plans, bounds."""

from __future__ import annotations

import pytest
from brute_force import brute_force
from hypothesis import HealthCheck, given, seed, settings
from tiny_problems import tiny_problems

from schedverify.optimizer import bounds
from schedverify.optimizer.costs import Costs
from schedverify.planner import optimize
from schedverify.problem import Problem
from schedverify.result import Status
from schedverify.verifier import verify

OBJECTIVES = ("makespan", "span")
CHUNKS, EXAMPLES, MANY = 10, 52, 400
ANY = settings(deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))


def agree(problem: Problem) -> None:
    """Let the optimizer answer for each objective, and see that it is right."""
    truth = brute_force(problem)
    for objective in OBJECTIVES:
        story = f"{objective} of {problem.to_dict()}"
        least = truth.value(objective)
        plan = optimize(problem, objective=objective, workers=1, time_limit=60)
        assert plan.value == least, f"{story}: {plan.value} by {plan.reason}, brute force {truth}"
        assert plan.status is (Status.OPTIMAL if truth.feasible else Status.INFEASIBLE), f"{story}: {plan.reason}"
        assert truth.feasible is (plan.schedule is not None)
        if least is not None:
            assert plan.bound == least, story
            assert not verify(plan).violations, story
            assert (plan.measures and getattr(plan.measures, objective)) == least, story
            below(problem, objective, least, story)


def below(problem: Problem, objective: str, least: int, story: str) -> None:
    """See that no bound that needs no search is above the truth."""
    costs = Costs(problem)
    known = [*bounds.load_bounds(costs, objective), *bounds.pair_bounds(costs, objective)]
    for bound in [*known, *bounds.memory_bounds(costs, objective)]:
        assert bound.value <= least, f"{bound.evidence} is above {least}: {story}"
    best = bounds.best_bound(problem, objective)
    assert best is None or best.value == max(bound.value for bound in [*known, best])


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_optimizer_equals_brute_force(chunk: int) -> None:
    @seed(chunk)
    @settings(ANY, max_examples=EXAMPLES, derandomize=False)
    @given(problem=tiny_problems())
    def check(problem: Problem) -> None:
        agree(problem)

    check()


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS, CHUNKS + 4))
def test_the_optimizer_equals_brute_force_on_many_more(chunk: int) -> None:
    @seed(chunk)
    @settings(ANY, max_examples=MANY, derandomize=False)
    @given(problem=tiny_problems())
    def check(problem: Problem) -> None:
        agree(problem)

    check()
