"""The state of a search: what is kept of what is offered, when it is over, and how its end is put into words."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from typing import Any
from unittest import mock

import pytest
from hypothesis import Phase, assume, given, settings
from hypothesis import strategies as st

from oracle.compute_orders import judge
from oracle.compute_orders import peaks as oracle_peaks
from schedverify.core.problem import Problem
from schedverify.core.result import Status
from schedverify.core.schedule import Schedule
from schedverify.optimizer.effort import Effort
from schedverify.optimizer.incumbent import Incumbent, Progress
from schedverify.optimizer.orders import Rows, hint_of, rows_of, schedule_of
from schedverify.optimizer.peak_memory import _CapacityDescent
from schedverify.optimizer.search_state import SearchState, Solution
from schedverify.optimizer.solvers.cp_sat import SolverOutcome
from schedverify.optimizer.tasks import Tasks
from schedverify.planner.plans import optimize
from schedverify.simulator.engine import simulate
from support.tiny_problems import tiny_problems

PAIR = Problem.chain(ranks=2, microbatches=2, forward=1, backward=2, activation=1, capacity=2)
BEST = "0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1"
"""Rank 1 runs from 1 to 7, and the last B of rank 0 ends at 9."""
ONE_BY_ONE = "0F0 0B0 0F1 0B1\n1F0 1B0 1F1 1B1"


def rows(text: str, problem: Problem = PAIR) -> Rows:
    schedule = Schedule.parse(text)
    return rows_of(problem, hint_of(schedule, simulate(schedule, problem).starts))


def state(within: int | None = None, problem: Problem = PAIR, **means: Any) -> SearchState:
    return SearchState(problem, "makespan", Effort(**means), within, None)


def test_only_what_is_better_is_kept_and_reported() -> None:
    said: list[tuple[int | None, int]] = []
    best = Incumbent(Tasks(PAIR), lambda progress: said.append((progress.value, progress.bound)))
    best.raise_bound(7)
    best.offer(rows(ONE_BY_ONE))
    best.offer(rows(BEST))
    best.offer(rows(ONE_BY_ONE))
    best.raise_bound(5)
    assert (best.value, best.rows, best.bound, best.proved) == (9, rows(BEST), 7, False)
    best.raise_bound(9)
    assert best.proved
    assert said == [(None, 7), (12, 7), (9, 7), (9, 9)]


def test_of_equal_orders_the_one_that_holds_less_is_kept_and_nothing_new_is_reported() -> None:
    problem = Problem.chain(ranks=2, microbatches=3, forward=1, backward=2, activation=[2, 3], static=[0, 5])
    first, second = ("0F0 0F1 0F2 0B0 0B1 0B2", "0F0 0F1 0B0 0F2 0B1 0B2")
    full = rows(f"{first}\n1F0 1F1 1F2 1B0 1B1 1B2", problem)
    half, lean = (rows(f"{row}\n1F0 1B0 1F1 1B1 1F2 1B2", problem) for row in (first, second))
    said: list[int | None] = []
    best = Incumbent(Tasks(problem), lambda progress: said.append(progress.value))
    kept = []
    for offered in (full, half, full, lean, half):
        best.offer(offered)
        kept.append(best.peaks)
    assert kept == [(14, 6), (8, 6), (8, 6), (8, 4), (8, 4)], "rank 1 holds 5 and 3 for each micro-batch, rank 0 two"
    assert best.rows == lean
    assert said == [12]


@contextmanager
def offers() -> Iterator[list[Schedule]]:
    """Collect every schedule that a search offers to be kept."""
    collected: list[Schedule] = []
    kept, taken = Incumbent.offer, _CapacityDescent._take

    def offer(best: Incumbent, offered: Rows) -> None:
        collected.append(schedule_of(offered))
        kept(best, offered)

    def take(descent: _CapacityDescent, schedule: Schedule) -> None:
        collected.append(schedule)
        taken(descent, schedule)

    with mock.patch.object(Incumbent, "offer", offer), mock.patch.object(_CapacityDescent, "_take", take):
        yield collected


@settings(max_examples=60, phases=[Phase.generate], deadline=None, derandomize=True, database=None)
@given(tiny_problems(), st.sampled_from(["makespan", "span", "peak-memory"]), st.data())
def test_nothing_that_was_found_is_as_good_with_less_memory(
    problem: Problem, objective: str, data: st.DataObject
) -> None:
    """By the oracle: no order that was looked at keeps all limits, has the value of the best, and needs less."""
    then = data.draw(st.sampled_from([None, "makespan" if objective == "peak-memory" else "peak-memory"]))
    with offers() as collected:
        plan = optimize(problem, objective=objective, then=then, workers=1)
    assume(plan.schedule is not None)

    def needs(schedule: Schedule) -> tuple[Any, ...]:
        """Return the values that are minimized, and behind them what counts among equals."""
        peaks = sorted(oracle_peaks(schedule.strings(), problem.to_dict())["capacity"], reverse=True)
        measures = simulate(schedule, problem).measures
        values = [measures.value(goal) for goal in (objective, then) if goal]
        time = [] if objective != "peak-memory" else [measures.makespan]
        return (*values, peaks[0], *time, peaks)

    possible = [schedule for schedule in collected if holds(schedule, problem)]
    assert possible
    assert needs(plan.schedule) == min(map(needs, possible))


def holds(schedule: Schedule, problem: Problem) -> bool:
    """Whether the oracle passes an order: structure, dependencies, memory."""
    return not any(judge(schedule.strings(), problem.to_dict()).values())


def test_orders_that_cannot_run_or_break_a_limit_are_not_kept() -> None:
    narrow = Problem.chain(ranks=2, microbatches=2, forward=1, backward=2, activation=1, capacity=1)
    best = Incumbent(Tasks(narrow), None)
    best.offer(rows(BEST))
    best.offer([row[::-1] for row in rows(BEST)])
    assert best.value is None
    assert best.fifo_rows() is None


def test_the_form_of_the_model_takes_a_b_apart_and_goes_first_in_first_out() -> None:
    split = Problem.chain(ranks=1, microbatches=2, form="split")
    best = Incumbent(Tasks(split), None)
    best.offer(rows("0F1 0B1 0F0 0I0 0W0", split))
    assert best.fifo_rows() == [
        [("F", 0, 0), ("I", 0, 0), ("W", 0, 0), ("F", 0, 1), ("I", 0, 1), ("W", 0, 1)],
    ]  # fmt: skip


@pytest.mark.parametrize(("value", "bound", "gap"), [(12, 9, Fraction(1, 3)), (9, 9, 0), (None, 9, None), (9, 0, None)])
def test_the_gap_is_relative_to_the_bound(value: int | None, bound: int, gap: Fraction | None) -> None:
    assert Progress(1.0, value, bound).gap == gap
    assert Solution(Status.FEASIBLE, value=value, bound=bound).gap == gap


def test_a_value_that_is_good_enough_ends_the_search() -> None:
    search = state(within=12)
    assert not search.over()
    search.best.offer(rows(ONE_BY_ONE))
    assert search.settled()
    solution = search.solution()
    assert (solution.status, solution.value) == (Status.FEASIBLE, 12)
    assert solution.reason == "the search ended with a makespan of no more than 12"


@pytest.mark.parametrize(
    ("within", "reason"), [(8, "no order with a makespan of 8 or less keeps memory.capacity"),
                           (None, "no order keeps memory.capacity")],
)  # fmt: skip
def test_a_closed_search_without_a_schedule_is_a_proof(within: int | None, reason: str) -> None:
    search = state(within)
    search.conclude(SolverOutcome(closed=True, found=False, bound=None))
    assert search.hopeless()
    assert (search.solution().status, search.solution().reason) == (Status.INFEASIBLE, reason)


def test_a_closed_search_proves_the_best() -> None:
    search = state()
    search.best.offer(rows(BEST))
    assert search.most() == 9
    search.conclude(SolverOutcome(closed=True, found=False, bound=None))
    solution = search.solution()
    assert (solution.status, solution.value, solution.starts) == (Status.OPTIMAL, 9, ((0, 1, 4, 7), (1, 2, 4, 5)))


def test_a_bound_of_a_solver_is_in_units_and_no_higher_than_what_it_looked_for() -> None:
    search = state(problem=Problem.chain(ranks=2, microbatches=2, forward=10, backward=20))
    search.best.offer(rows(BEST))
    search.raise_bound(8)
    assert search.best.bound == 80
    search.raise_bound(12)
    assert search.best.bound == 90


@pytest.mark.parametrize(
    ("means", "reason"),
    [
        ({"time_limit": 0}, "the time limit of 0 s ended the search"),
        ({"memory": 1 << 20}, "the process came to hold the 1 MiB that the solver may take"),
    ],
)
def test_what_ended_the_search_is_said(means: dict[str, Any], reason: str) -> None:
    search = state(**means)
    assert search.over()
    solution = search.solution()
    assert solution.status is Status.UNKNOWN
    assert solution.reason == f"neither a schedule nor a proof that there is none was found: {reason}"


def test_each_part_leaves_what_is_known_at_its_end() -> None:
    search = state()
    with search.part("bounds"):
        search.best.raise_bound(7)
    with search.part("list schedules"):
        search.best.offer(rows(BEST))
    assert [(part.name, part.value, part.bound) for part in search.parts] == [
        ("bounds", None, 7), ("list schedules", 9, 7),
    ]  # fmt: skip


def test_a_problem_beyond_the_model_is_said_to_be() -> None:
    large = state(problem=Problem.chain(ranks=2, microbatches=15_001), time_limit=0)
    assert large.too_large
    assert "more than 60000 steps" in large.solution().reason
