"""The optimizer against brute force on everything hypothesis makes that is tiny: values, statuses, plans, bounds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from oracle.brute_force import brute_force, first_in_first_out
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Status
from schedverify.optimizer.bounds import formulas as bounds
from schedverify.optimizer.bounds.costs import Costs
from schedverify.optimizer.bounds.formulas import best_peak_bound
from schedverify.optimizer.model.rules import add_constraints
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.orders import measure, rows_of
from schedverify.optimizer.solvers.cp_sat import SolverSettings, search
from schedverify.optimizer.tasks import OpKey, Tasks
from schedverify.planner.plans import optimize
from schedverify.verifier.verification import verify
from support.tiny_problems import tiny_problems

OBJECTIVES = ("makespan", "span", "peak-memory")
LARGER_FUSED = tiny_problems(a_rank=16, in_all=36, forms=("fused",))
LARGER_SPLIT = tiny_problems(a_rank=12, in_all=24, forms=("split", "mixed"))
CHUNKS, EXAMPLES, MANY = 10, 52, 400


def agree(problem: Problem) -> None:
    """Let the optimizer answer for each objective, and see that it is right."""
    truth = brute_force(problem)
    assert bare(problem) == truth.makespan, f"the bare model is wrong about {problem.to_dict()}: {truth}"
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
    assert first_in_first_out(problem) == truth.makespan, f"first in, first out is worse: {problem.to_dict()}"


def on_some(problems: st.SearchStrategy[Problem], chunk: int, examples: int, check: Callable[[Problem], None]) -> None:
    """Draw problems, the same ones in every run, and check each."""
    means = settings(deadline=None, database=None, max_examples=examples, suppress_health_check=list(HealthCheck))
    seed(chunk)(means(given(problems)(check)))()


def larger_agree(problem: Problem) -> None:
    """See that the optimizer is right about a problem that is too large for all orders, and right for some of them."""
    story, least = f"{problem.to_dict()}", first_in_first_out(problem)
    plan = optimize(problem, objective="makespan", workers=1, time_limit=60)
    assert plan.value == least == bare(problem), f"{story}: {plan.value} by {plan.reason}, brute force {least}"
    assert plan.status is (Status.INFEASIBLE if least is None else Status.OPTIMAL), f"{story}: {plan.reason}"
    if least is not None:
        below(problem, "makespan", least, story)


def bare(problem: Problem) -> int | None:
    """Return the least makespan that the rules alone give: no bounds, no warm start, no hint."""
    tasks = Tasks(problem)
    model = OrderModel(tasks, horizon=tasks.horizon, objective="makespan")
    add_constraints(model)
    found: list[dict[OpKey, int]] = []
    outcome = search(model, 60, SolverSettings(0, 1, lambda: False, found.append, lambda _bound: None))
    assert outcome.closed
    return measure(tasks, rows_of(problem, found[-1]), "makespan") if outcome.found else None


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
    found = [bound for bounds_of in bounds.TIME_BOUNDS for bound in bounds_of(Costs(problem), objective)]
    for bound in found:
        assert bound.value <= least, f"{bound.evidence} is above {least}: {story}"
    best = bounds.best_bound(problem, objective)
    assert max((bound.value for bound in found), default=None) == (best and best.value)


def test_each_bound_has_a_generator() -> None:
    generators = {value for name, value in vars(bounds).items() if name.endswith("_bounds")}
    assert generators == {*bounds.TIME_BOUNDS, bounds.sequence_bounds, bounds.admission_bounds}


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_the_optimizer_equals_brute_force(chunk: int) -> None:
    on_some(tiny_problems(), chunk, EXAMPLES, agree)


@pytest.mark.slow
@pytest.mark.parametrize("chunk", range(CHUNKS, CHUNKS + 4))
def test_the_optimizer_equals_brute_force_on_many_more(chunk: int) -> None:
    on_some(tiny_problems(), chunk, MANY, agree)


def test_larger_problems_equal_brute_force_first_in_first_out() -> None:
    on_some(LARGER_FUSED, 0, 40, larger_agree)
    on_some(LARGER_SPLIT, 0, 15, larger_agree)


@pytest.mark.slow
def test_many_larger_problems_equal_brute_force_first_in_first_out() -> None:
    on_some(LARGER_FUSED, 1, 200, larger_agree)
    on_some(LARGER_SPLIT, 1, 100, larger_agree)
