"""Two objectives in lexicographic order: the values of both, what is open, and pairs that do not go together."""

from __future__ import annotations

from typing import Any

import pytest

from schedverify.core.errors import UnsupportedError
from schedverify.core.problem import Problem
from schedverify.core.result import Status
from schedverify.optimizer.effort import Effort
from schedverify.optimizer.lexicographic import LexicographicResult, minimize
from schedverify.optimizer.search_state import Solution
from schedverify.planner.plans import optimize
from schedverify.verifier.verification import verify

PAIR: dict[str, Any] = {"ranks": 2, "microbatches": 4, "forward": 1, "backward": 2}
EARLY = Problem.chain(**PAIR)


def test_two_objectives_in_turn_by_hand() -> None:
    least = optimize(EARLY, objective="peak-memory", then="makespan", workers=1)
    assert (least.status, least.value, least.bound) == (Status.OPTIMAL, 1, 1)
    assert least.then is not None
    assert (least.then.objective, least.then.value, least.then.bound) == ("makespan", 24, 24)
    quick = optimize(EARLY, objective="makespan", then="peak-memory", workers=1)
    assert quick.then is not None
    assert (quick.status, quick.value, quick.then.value, quick.then.bound) == (Status.OPTIMAL, 15, 2, 2)
    span = optimize(EARLY, objective="span", then="peak-memory", workers=1)
    assert span.then is not None
    assert (span.status, span.value, span.then.value) == (Status.OPTIMAL, 15, 2)


def test_the_problem_names_its_objectives() -> None:
    problem = Problem.chain(**PAIR, minimize="peak-memory", then="makespan")
    plan = optimize(problem, workers=1)
    assert plan.then is not None
    assert (plan.objective, plan.value, plan.then.value) == ("peak-memory", 1, 24)
    assert optimize(problem, objective="makespan", workers=1).then is None
    assert Problem.of(problem.to_dict()) == problem


def test_the_part_that_is_open_is_named() -> None:
    problem = Problem.chain(
        ranks=4, microbatches=12, virtual=2, placement="v", forward=[3, 5, 4, 6, 3, 5, 4, 2], backward_input=4,
        backward_weight=[2, 3, 1, 2, 2, 3, 1, 2], latency=1, activation=2, weight_stash=1, capacity=8,
    )  # fmt: skip
    plan = optimize(problem, objective="makespan", then="peak-memory", workers=1, time_limit=0)
    assert plan.status is Status.FEASIBLE
    assert plan.reason.startswith("the first objective is open: the time limit of ")
    assert plan.then is not None
    assert plan.then.bound is not None
    assert not verify(plan).violations


@pytest.mark.parametrize(("first", "second"), [("makespan", "span"), ("span", "makespan"), ("peak-memory",) * 2])
def test_two_times_or_two_peaks_do_not_go_together(first: str, second: str) -> None:
    with pytest.raises(UnsupportedError, match=f"cannot minimize the {second} behind the {first}"):
        minimize(EARLY, objective=first, then=second, effort=Effort())


def test_without_a_first_schedule_there_is_no_second_search() -> None:
    result = minimize(
        Problem.chain(**PAIR, makespan=1), objective="makespan", then="peak-memory", effort=Effort(workers=1)
    )
    assert result.second is None
    assert (result.status, result.schedule) == (Status.INFEASIBLE, None)
    assert result.reason == "no order has a makespan below 15 ticks, and limits.makespan is 1 tick"


def test_the_schedule_is_that_of_the_last_search_that_found_one() -> None:
    best = minimize(EARLY, objective="makespan", effort=Effort(workers=1)).first
    assert best.value == 15
    open_second = LexicographicResult(best, Solution(Status.UNKNOWN, reason="no time"))
    assert open_second.schedule == best.schedule
    assert open_second.status is Status.FEASIBLE
    assert open_second.reason == "the second objective is open: no time"
    assert open_second.parts == best.parts
