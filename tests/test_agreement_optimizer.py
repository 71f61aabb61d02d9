"""The optimizer against brute force on everything hypothesis makes that is tiny: values, statuses, plans, bounds."""

from __future__ import annotations

import pytest
from brute_force import brute_force
from hypothesis import HealthCheck, given, seed, settings
from tiny_problems import tiny_problems

from schedverify.optimizer import bounds
from schedverify.optimizer.costs import Costs
from schedverify.optimizer.peak_bounds import best_peak_bound
from schedverify.planner import optimize
from schedverify.problem import Problem
from schedverify.result import Plan, Status
from schedverify.verifier import verify

OBJECTIVES = ("makespan", "span", "peak-memory")
GENERATORS = [value for name, value in vars(bounds).items() if name.endswith("_bounds")]
CHUNKS, EXAMPLES, MANY = 10, 52, 400


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
            assert reached(plan, objective) == least, story
            below(problem, objective, least, story)


def on_some(chunk: int, examples: int) -> None:
    """Draw problems, the same ones in every run, and see that the optimizer is right about them."""

    @seed(chunk)
    @settings(deadline=None, database=None, max_examples=examples, suppress_health_check=list(HealthCheck))
    @given(problem=tiny_problems())
    def check(problem: Problem) -> None:
        agree(problem)

    check()


def reached(plan: Plan, objective: str) -> int:
    """Return what the plan's own timeline comes to."""
    measures = plan.measures
    assert measures is not None
    return {"makespan": measures.makespan, "span": measures.span, "peak-memory": max(measures.peak_memory)}[objective]


def below(problem: Problem, objective: str, least: int, story: str) -> None:
    """See that no bound that needs no search is above the truth."""
    if objective == "peak-memory":
        assert best_peak_bound(problem).value <= least, story
        return
    found = [bound for bounds_of in GENERATORS for bound in bounds_of(Costs(problem), objective)]
    for bound in found:
        assert bound.value <= least, f"{bound.evidence} is above {least}: {story}"
    best = bounds.best_bound(problem, objective)
    assert max((bound.value for bound in found), default=None) == (best and best.value)


def test_each_bound_has_a_generator() -> None:
    assert len(GENERATORS) >= 3


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_optimizer_equals_brute_force(chunk: int) -> None:
    on_some(chunk, EXAMPLES)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS, CHUNKS + 4))
def test_the_optimizer_equals_brute_force_on_many_more(chunk: int) -> None:
    on_some(chunk, MANY)
