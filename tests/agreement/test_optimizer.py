"""The optimizer against brute force on everything hypothesis makes that is tiny: values, statuses, plans, bounds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import pytest
from hypothesis import HealthCheck, given, seed, settings
from hypothesis import strategies as st

from oracle.brute_force import brute_force, first_in_first_out, first_in_first_out_span, span_within
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Status
from schedverify.optimizer.bounds import formulas as bounds
from schedverify.optimizer.bounds.costs import Costs
from schedverify.optimizer.bounds.formulas import best_peak_bound
from schedverify.optimizer.counts.bound import count_bounds
from schedverify.optimizer.model.rules import add_constraints
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.orders import measure, rows_of
from schedverify.optimizer.solvers.cp_sat import SolverSettings, search
from schedverify.optimizer.tasks import OpKey, Tasks
from schedverify.planner.plans import optimize
from schedverify.verifier.certificates import proved_bound
from schedverify.verifier.verification import verify
from support.thinned import thinned
from support.tiny_problems import tiny_problems

TIMES = ("makespan", "span")
OBJECTIVES = (*TIMES, "peak-memory")
SPARE = st.integers(-1, 4)
LARGER_FUSED = tiny_problems(a_rank=16, in_all=36, forms=("fused",))
LARGER_SPLIT = tiny_problems(a_rank=12, in_all=24, forms=("split", "mixed"))
CHUNKS, EXAMPLES, MANY = 10, 52, 400


def agree(problem: Problem) -> None:
    """Let the optimizer answer for each objective, and see that it is right."""
    truth = brute_force(problem)
    for objective in TIMES:
        assert bare(problem, objective) == truth.value(objective), f"{objective} of {problem.to_dict()}: {truth}"
    for objective in OBJECTIVES:
        story = f"{objective} of {problem.to_dict()}"
        least = truth.value(objective)
        plan = optimize(problem, objective=objective, workers=1, time_limit=60)
        assert plan.value == least, f"{story}: {plan.value} by {plan.reason}, brute force {truth}"
        assert plan.status is (Status.OPTIMAL if truth.feasible else Status.INFEASIBLE), f"{story}: {plan.reason}"
        assert truth.feasible is (plan.schedule is not None)
        assert not verify(plan).violations, story
        if least is not None:
            assert plan.bound == least, story
            assert reached(plan, objective) == least, story
            below(problem, objective, least, story)
    assert first_in_first_out(problem) == truth.makespan, f"first in, first out is worse: {problem.to_dict()}"
    assert first_in_first_out_span(problem) == truth.span, f"first in, first out is worse: {problem.to_dict()}"


def agree_within(problem: Problem, spare: int) -> None:
    """Let the optimizer answer for the span under a makespan limit, and see that it is right."""
    makespan = brute_force(problem).makespan
    if makespan is None or makespan + spare < 1:
        return
    limited = dataclasses.replace(problem, makespan_limit=makespan + spare)
    least, story = span_within(problem, makespan + spare), f"{limited.to_dict()}"
    plan = optimize(limited, objective="span", workers=1, time_limit=60)
    assert plan.value == least == bare(limited, "span"), f"{story}: {plan.value} by {plan.reason}, brute force {least}"
    assert plan.status is (Status.INFEASIBLE if least is None else Status.OPTIMAL), f"{story}: {plan.reason}"
    assert first_in_first_out_span(problem, makespan + spare) == least, f"first in, first out is worse: {story}"
    if least is not None:
        assert not verify(plan).violations, story
        assert reached(plan, "makespan") <= makespan + spare, story
        assert reached(plan, "span") == least, story


def on_some(
    problems: st.SearchStrategy[Problem],
    chunk: int,
    examples: int,
    check: Callable[..., None],
    *more: st.SearchStrategy[int],
) -> None:
    """Draw problems, the same ones in every run, and check each."""
    means = settings(deadline=None, database=None, max_examples=examples, suppress_health_check=list(HealthCheck))
    seed(chunk)(means(given(problems, *more)(check)))()


def larger_agree(problem: Problem) -> None:
    """See that the optimizer is right about a problem that is too large for all orders, and right for some of them."""
    story, least = f"{problem.to_dict()}", first_in_first_out(problem)
    plan = optimize(problem, objective="makespan", workers=1, time_limit=60)
    assert plan.value == least == bare(problem, "makespan"), (
        f"{story}: {plan.value} by {plan.reason}, brute force {least}"
    )
    assert plan.status is (Status.INFEASIBLE if least is None else Status.OPTIMAL), f"{story}: {plan.reason}"
    if least is not None:
        below(problem, "makespan", least, story)


def bare(problem: Problem, objective: str) -> int | None:
    """Return the least makespan or span that the rules alone give: no bounds, no warm start, no hint."""
    tasks = Tasks(problem, objective)
    model = OrderModel(tasks, horizon=tasks.horizon)
    add_constraints(model)
    found: list[dict[OpKey, int]] = []
    outcome = search(model, 60, SolverSettings(0, 1, lambda: False, found.append, lambda _bound: None))
    assert outcome.closed
    if not outcome.found:
        return None
    value = measure(tasks, rows_of(problem, found[-1]))
    assert outcome.bound is not None
    assert value == outcome.bound * tasks.unit, f"the model says {outcome.bound} of a {objective} of {value}"
    return value


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


@pytest.mark.parametrize("chunk", thinned(range(CHUNKS), every=5))
def test_the_optimizer_equals_brute_force(chunk: int) -> None:
    on_some(tiny_problems(), chunk, EXAMPLES, agree)


@pytest.mark.long
@pytest.mark.parametrize("chunk", range(CHUNKS, CHUNKS + 4))
def test_the_optimizer_equals_brute_force_on_many_more(chunk: int) -> None:
    on_some(tiny_problems(), chunk, MANY, agree)


@pytest.mark.slow
def test_a_span_under_a_makespan_limit_equals_brute_force() -> None:
    on_some(tiny_problems(), 0, 60, agree_within, SPARE)


@pytest.mark.slow
def test_many_spans_under_a_makespan_limit_equal_brute_force() -> None:
    on_some(tiny_problems(), 1, 400, agree_within, SPARE)


def bounded(problem: Problem) -> None:
    """See that no bound, and none of the count relaxation, is above the truth, and that the evidence says as much."""
    truth = brute_force(problem)
    for objective in TIMES:
        least, story = truth.value(objective), f"{objective} of {problem.to_dict()}"
        if least is None:
            continue
        below(problem, objective, least, story)
        counted = list(count_bounds(problem, objective, lower=0, upper=None, seconds=2))
        found = [bound for bounds_of in bounds.TIME_BOUNDS for bound in bounds_of(Costs(problem), objective)]
        for bound in [*found, *counted]:
            assert bound.value <= least, f"{bound.evidence} is above {least}: {story}"
            assert proved_bound(problem, objective, bound.evidence) == bound.value, story


def test_no_bound_is_above_brute_force() -> None:
    on_some(tiny_problems(), 2, 60, bounded)


@pytest.mark.slow
def test_no_bound_is_above_brute_force_on_many_more() -> None:
    on_some(tiny_problems(), 3, 300, bounded)


@pytest.mark.slow
def test_larger_problems_equal_brute_force_first_in_first_out() -> None:
    on_some(LARGER_FUSED, 0, 40, larger_agree)
    on_some(LARGER_SPLIT, 0, 15, larger_agree)


@pytest.mark.long
def test_many_larger_problems_equal_brute_force_first_in_first_out() -> None:
    on_some(LARGER_FUSED, 1, 200, larger_agree)
    on_some(LARGER_SPLIT, 1, 100, larger_agree)
