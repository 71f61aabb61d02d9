"""The span of an order is what three derivations of it come to, and never above the longest window of its timeline."""

from __future__ import annotations

import random
from typing import Any

import pytest

from oracle.law import Law
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
from support.random_schedules import Base, Rows, base, random_rows

MOST = 400
"""Batches after which those that follow are as far apart as ever."""
DRAWN = 10_000


def far(number: int) -> tuple[dict[str, Any], Rows]:
    """Draw an order whose ranks wait long for each other's first steps: short steps, links of many lengths."""
    rng = random.Random(f"far {number}")
    ranks = rng.randint(2, 4)
    form = rng.choice(["inference", "split", "fused"])
    stages = rng.randint(ranks, 2 * ranks)
    costs: dict[str, Any] = {"forward": [rng.randint(0, 3) for _ in range(stages)]}
    if form == "split":
        costs |= {"backward_input": rng.randint(0, 2), "backward_weight": rng.randint(0, 3)}
    if form == "fused":
        costs |= {"backward": rng.randint(0, 4)}
    data = {
        "ranks": ranks, "microbatches": rng.randint(1, 2), "stages": stages, "form": form, "costs": costs,
        "placement": [rng.randrange(ranks) for _ in range(stages)],
        "links": {"latency": [[rng.choice([0, 1, 9, 30]) for _ in range(ranks)] for _ in range(ranks)]},
        "edges": [[a, b] for b in range(stages) for a in range(b) if rng.random() < 0.4],
    }  # fmt: skip
    whole = Problem.of(data).to_dict()
    return whole, random_rows(rng, Law(whole))


def ring(number: int) -> tuple[dict[str, Any], Rows]:
    """Draw an order of ranks in a ring: on each, what the rank before it needs last comes first, over a long link."""
    rng = random.Random(f"ring {number}")
    ranks = rng.randint(2, 5)
    data = {
        "ranks": ranks, "microbatches": 1, "form": "inference", "stages": 2 * ranks,
        "placement": [stage // 2 for stage in range(2 * ranks)],
        "edges": [[2 * rank, (2 * rank + 3) % (2 * ranks)] for rank in range(ranks) if rng.random() < 0.9],
        "costs": {"forward": [rng.randint(0, 5) for _ in range(2 * ranks)]},
        "links": {"latency": [[rng.randint(0, 40) for _ in range(ranks)] for _ in range(ranks)]},
    }  # fmt: skip
    rows = [[f"{2 * rank}F0", f"{2 * rank + 1}F0"] for rank in range(ranks)]
    return Problem.of(data).to_dict(), rows


def drawn(number: int) -> tuple[dict[str, Any], Rows]:
    """Return the data of a problem and an order of it: of any shape, with far ranks, or in a ring."""
    if number % 4 == 0:
        return far(number)
    return ring(number) if number % 4 == 1 else (base(number).data, base(number).rows)


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
