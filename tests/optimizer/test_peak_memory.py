"""The least peak memory, alone, under a makespan limit, and before or behind a time."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from oracle.brute_force import brute_force
from oracle.test_brute_force import permuted
from schedverify.core.problem import Problem
from schedverify.core.result import Status
from schedverify.optimizer import Effort, least_peak, solve
from schedverify.optimizer.peak_memory import PeakLevels
from schedverify.planner.plans import optimize
from schedverify.verifier.verification import verify
from support.tiny_problems import tiny_problems

PAIR: dict[str, Any] = {"ranks": 2, "microbatches": 4, "forward": 1, "backward": 2}
EARLY = Problem.chain(**PAIR)


@pytest.mark.parametrize(("limit", "peak"), [(None, 1), (24, 1), (23, 2), (15, 2), (14, None), (1, None)])
def test_the_peak_of_two_ranks_by_hand(limit: int | None, peak: int | None) -> None:
    # One micro-batch at a time takes 6 ticks each; the least makespan is 15, with two in flight on rank 0.
    plan = optimize(Problem.chain(**PAIR, makespan=limit), objective="peak-memory", workers=1)
    assert plan.value == peak
    if peak is None:
        assert plan.status is Status.INFEASIBLE
        assert "limits.makespan is" in plan.reason
    else:
        assert plan.status is Status.OPTIMAL
        assert plan.measures is not None
        assert limit is None or plan.measures.makespan <= limit
        assert not verify(plan).violations


def test_static_bytes_and_limits_count() -> None:
    problem = Problem.chain(**PAIR, static=[10, 3], activation=[4, 7], capacity=[18, 40])
    assert optimize(problem, objective="peak-memory", workers=1).value == 14
    assert optimize(dataclasses.replace(problem, makespan_limit=15), objective="peak-memory", workers=1).value == 18
    short = optimize(dataclasses.replace(problem, makespan_limit=15, capacity=(17, 40)), objective="peak-memory")
    assert (short.status, short.value) == (Status.INFEASIBLE, None)
    assert "memory.capacity" in short.reason


def test_inference_holds_what_runs() -> None:
    problem = Problem.chain(ranks=3, microbatches=4, form="inference", activation=[2, 5, 3], static=[4, 0, 1])
    plan = optimize(problem, objective="peak-memory", then="makespan", workers=1)
    assert plan.then is not None
    assert (plan.status, plan.value, plan.then.value) == (Status.OPTIMAL, 6, 6)
    assert verify(plan)["SV502"].verdict == "holds"


def test_a_branched_model_needs_more_than_one_path_of_a_sequence() -> None:
    # Both arms stand on rank 0 and wait for stage 3 on rank 1: no bound by hand sees it, the search proves it.
    problem = Problem.of({
        "ranks": 2, "microbatches": 2, "stages": 4, "placement": [0, 0, 0, 1],
        "edges": [[0, 1], [0, 2], [1, 3], [2, 3]], "costs": {"forward": 1, "backward": 1},
        "memory": {"activation": [1, 2, 3, 1]},
    })  # fmt: skip
    plan = optimize(problem, objective="peak-memory", workers=1)
    assert (plan.status, plan.value) == (Status.OPTIMAL, 6)


def test_a_limit_on_the_makespan_holds_whatever_is_minimized() -> None:
    tight = Problem.chain(**PAIR, makespan=14)
    for objective in ("makespan", "span"):
        assert optimize(tight, objective=objective, workers=1).status is Status.INFEASIBLE
        assert optimize(dataclasses.replace(tight, makespan_limit=15), objective=objective, workers=1).value == 15


def test_what_is_good_enough_ends_the_search() -> None:
    problem = Problem.chain(ranks=3, microbatches=5, forward=[3, 2, 4], backward=[5, 4, 6], latency=1, in_flight=3)
    best = solve(problem, effort=Effort(workers=1)).value
    assert best is not None
    assert solve(problem, within=best - 1, effort=Effort(workers=1)).status is Status.INFEASIBLE
    found = solve(problem, within=best + 20, effort=Effort(workers=1))
    assert found.value is not None
    assert found.value <= best + 20


def test_levels_are_what_a_peak_can_be() -> None:
    levels = PeakLevels(
        Problem.chain(ranks=2, microbatches=3, static=[5, 100], activation=[6, 40], weight_stash=[4, 0])
    )
    assert [levels.above(c) for c in (1, 5, 6, 8, 100, 101, 139)] == [5, 5, 7, 9, 100, 101, 139]
    assert levels.between(7, 9) == 7
    assert levels.between(7, 107) == 57
    assert PeakLevels(Problem.chain(ranks=1, microbatches=1, static=9, activation=0)).above(4) == 9


def test_a_ceiling_by_hand() -> None:
    found = least_peak(EARLY, ceiling=("makespan", 15), effort=Effort(workers=1))
    assert (found.status, found.value) == (Status.OPTIMAL, 2)
    none = least_peak(EARLY, ceiling=("makespan", 14), effort=Effort(workers=1))
    assert (none.status, none.value) == (Status.INFEASIBLE, None)


@settings(max_examples=50, phases=[Phase.generate], deadline=None, derandomize=True, database=None)
@given(problem=tiny_problems(a_rank=4, in_all=6))
def test_turns_with_the_span_equal_all_permutations(problem: Problem) -> None:
    values = {(span, peak) for peak, _, span in permuted(problem)}
    for first, then, wanted in (
        ("span", "peak-memory", min(values, default=None)),
        ("peak-memory", "span", min(((peak, span) for span, peak in values), default=None)),
    ):
        plan = optimize(problem, objective=first, then=then, workers=1)
        assert plan.status is (Status.INFEASIBLE if wanted is None else Status.OPTIMAL)
        assert wanted is None or (plan.value, plan.then and plan.then.value) == wanted


@settings(max_examples=40, phases=[Phase.generate], deadline=None, derandomize=True, database=None)
@given(problem=tiny_problems(), slack=st.integers(-1, 4))
def test_peak_memory_and_both_turns_equal_brute_force(problem: Problem, slack: int) -> None:
    truth = brute_force(problem)

    def found(goal: str, then: str | None = None, limit: int | None = None) -> tuple[int | None, int | None]:
        given = dataclasses.replace(problem, makespan_limit=limit)
        plan = optimize(given, objective=goal, then=then, workers=1, time_limit=30)
        assert plan.status is (Status.INFEASIBLE if plan.value is None else Status.OPTIMAL), plan.reason
        assert plan.value == plan.bound or plan.value is None
        assert not plan.schedule or not verify(plan).violations
        return plan.value, plan.then and plan.then.value

    assert found("peak-memory") == (truth.peak, None)
    if truth.makespan is None:
        return
    assert found("peak-memory", "makespan") == truth.trade_off[0]
    assert found("makespan", "peak-memory") == truth.trade_off[-1][::-1]
    if limit := max(0, truth.makespan + slack):
        assert found("peak-memory", limit=limit) == (truth.peak_within(limit), None)
