"""The span of an order is what three derivations of it come to, and never above the longest window of its timeline."""

from __future__ import annotations

import random

import pytest

from oracle.span import (
    Batch,
    batch_of,
    by_batches,
    by_cycle_means,
    by_difference_constraints,
    earliest_window,
    lowered_batch,
)
from oracle.times import Clock
from schedverify.core.discipline import Discipline
from schedverify.core.errors import ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.simulator.engine import simulate, timed
from support.random_lowerings import lowered_rows, shuffled
from support.random_schedules import Base
from support.random_spans import drawn

MOST = 400
"""Batches after which those that follow are as far apart as ever."""
DRAWN = 10_000


def agreed(batch: Batch, ranks: int, most: int, story: str) -> int:
    """Return the span that all three derivations give, which is never above the longest window."""
    spans = {by_cycle_means(batch, ranks), by_difference_constraints(batch, ranks), by_batches(batch, ranks, most)}
    assert len(spans) == 1, story
    assert max(spans) <= earliest_window(batch, ranks), story
    return max(spans)


def compare(numbers: range) -> tuple[int, int, int]:
    """Hold drawn orders against the oracle; return of how many the span is below the window, and the most sweeps."""
    below, most, several = 0, 0, 0
    for number in numbers:
        data, rows = drawn(number)
        batch, ranks = batch_of(Clock(rows, data)), data["ranks"]
        span = timed(Schedule.of(rows), Problem.of(data))[2]
        assert span.ticks == agreed(batch, ranks, MOST, f"number {number}\n{data}\n{rows}"), f"{number}\n{data}\n{rows}"
        below += span.ticks < earliest_window(batch, ranks)
        most, several = max(most, span.sweeps), several + (span.sweeps > 2)
    return below, most, several


def test_three_derivations_agree() -> None:
    below, most, several = compare(range(400))
    assert below > 60
    assert most <= 8
    assert several > 10


@pytest.mark.slow
def test_three_derivations_agree_on_many() -> None:
    below, _, several = compare(range(400, 400 + DRAWN))
    assert below > 1500
    assert several > 100


def compare_lowered(discipline: Discipline, numbers: range) -> int:
    """Hold drawn lowered orders against the oracle; return of how many the span is below the window."""
    below = 0
    for number in numbers:
        data, order = drawn(number)
        rng, problem = random.Random(f"{number} {discipline}"), Problem.of(data)
        rows = shuffled(rng, lowered_rows(Base(problem, data, order, True)))
        eager = rng.choice([0, 0, 2, 9])
        try:
            timeline = simulate(Schedule.of(rows), problem, discipline=discipline, eager_bytes=eager)
        except ScheduleError:
            continue
        batch, story = lowered_batch(rows, data, discipline.value, eager), f"number {number}\n{data}\n{rows}"
        assert timeline.span == agreed(batch, problem.ranks, MOST, story), story
        below += timeline.span < earliest_window(batch, problem.ranks)
    return below


@pytest.mark.parametrize("discipline", Discipline)
def test_of_lowered_orders_too(discipline: Discipline) -> None:
    assert compare_lowered(discipline, range(18)) > 0


@pytest.mark.slow
@pytest.mark.parametrize("discipline", Discipline)
def test_of_many_lowered_orders(discipline: Discipline) -> None:
    assert compare_lowered(discipline, range(18, 200)) > 10
