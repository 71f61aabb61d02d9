"""The span follows from few sweeps, and from what brute force over all cycles of ranks finds."""

from __future__ import annotations

import itertools
import random
import re
import tomllib
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.core.verdict import Verdict
from schedverify.generators import generate
from schedverify.lowering import add_communication
from schedverify.simulator import csr_graph, engine, kernels
from schedverify.simulator.engine import simulate, timed
from schedverify.simulator.span import RankWindows, settle, span_of
from schedverify.verifier.verification import verify

SPANS = tomllib.loads((Path(__file__).parents[2] / "specs" / "spans.toml").read_text(encoding="utf-8"))
NEVER = -1
Matrix = list[list[int]]
"""By rank of the first step and rank of the last, the ticks of the longest path; NEVER where there is none."""


def matrix_of(rng: random.Random, ranks: int, density: float, most: int) -> Matrix:
    """Draw ways; each rank leads to itself."""
    return [[rng.randint(0, most) if q == r or rng.random() < density else NEVER for r in range(ranks)]
            for q in range(ranks)]  # fmt: skip


def ring(rng: random.Random, ranks: int) -> Matrix:
    """Return ways that lead far from each rank to the next alone, so that first steps wait on each other in a ring."""
    ways = [[NEVER] * ranks for _ in range(ranks)]
    for rank in range(ranks):
        ways[rank][rank] = rng.randint(1, 3)
        ways[rank][(rank + 1) % ranks] = rng.randint(20, 40)
        ways[rank][rng.randrange(ranks)] = rng.randint(1, 40)
    return ways


def windows_of(ways: Matrix, release: list[int]) -> RankWindows:
    """Return the windows of ranks whose first steps wait for nothing."""
    last, origin = [], []
    for rank in range(len(ways)):
        ends = [(release[q] + row[rank], q) for q, row in enumerate(ways) if row[rank] != NEVER]
        last.append(max(ends)[0])
        origin.append(max(ends)[1])
    return RankWindows(list(release), last, origin)


def largest_mean(ways: Matrix) -> Fraction:
    """Return the largest mean over all cycles of ranks."""
    best = Fraction(0)
    for size in range(1, len(ways) + 1):
        for ranks in itertools.permutations(range(len(ways)), size):
            steps = [ways[q][r] for q, r in zip(ranks, (*ranks[1:], ranks[0]), strict=True)]
            if NEVER not in steps:
                best = max(best, Fraction(sum(steps), size))
    return best


def found(ways: Matrix) -> Any:
    return span_of(windows_of(ways, [0] * len(ways)), lambda release: windows_of(ways, release))


def test_drawn_ways_and_rings() -> None:
    several = 0
    for number in range(600):
        rng = random.Random(f"ways {number}")
        ranks = rng.randint(1, 5)
        ways = ring(rng, ranks) if number % 2 else matrix_of(rng, ranks, rng.random(), rng.choice([0, 3, 20]))
        span = found(ways)
        mean = largest_mean(ways)
        assert span.ticks == -(-mean.numerator // mean.denominator), f"number {number}"
        assert span.sweeps <= ranks * ranks
        several += span.sweeps > 2
        if span.cycle:
            assert [ways[q][r] for q, r in zip(span.cycle, (*span.cycle[1:], span.cycle[0]), strict=True)] == [
                *span.ways
            ]
            assert -(-sum(span.ways) // len(span.ways)) == span.ticks
        else:
            assert span.ticks == 0
    assert several > 40


def test_long_rings_take_few_sweeps() -> None:
    for number in range(20):
        ways = ring(random.Random(f"ring {number}"), 60)
        assert found(ways).sweeps <= 60


def test_what_is_compiled_does_what_the_python_does() -> None:
    for number in range(100):
        rng = random.Random(f"compiled {number}")
        ranks, rows = rng.randint(1, 5), rng.randint(1, 4)
        origins = [rng.randrange(-1, ranks) for _ in range(ranks * rows)]
        ways = [rng.randint(0, 30) for _ in origins]
        plain: Any = [[0] * ranks, [-1] * ranks, [-1] * ranks]
        compiled = [np.array(part) for part in plain]
        span = settle(origins, ways, len(ways), 0, *plain)
        assert kernels.settle(np.array(origins), np.array(ways), len(ways), 0, *compiled) == span
        assert [part.tolist() for part in compiled] == plain


@pytest.mark.parametrize("large", [0, 1 << 62])
@pytest.mark.parametrize("wide", [0, 1 << 62])
def test_numbers_of_any_size(monkeypatch: pytest.MonkeyPatch, large: int, wide: int) -> None:
    """First steps that wait can make a timeline that is far longer than the earliest one."""
    monkeypatch.setattr(csr_graph, "LARGE", large)
    monkeypatch.setattr(csr_graph, "LARGEST", wide)
    monkeypatch.setattr(engine, "LARGEST", wide)
    lag = (1 << 60) - 9
    data = {"ranks": 3, "microbatches": 1, "form": "inference", "placement": [0, 1, 1, 2, 2], "edges": [[0, 2], [1, 4]],
            "costs": {"forward": 1}, "links": {"latency": lag}}  # fmt: skip
    problem = Problem.of(data)
    order = Schedule.parse("0F0\n1F0 2F0\n3F0 4F0")
    for schedule in (order, add_communication(order, problem)):
        timeline = simulate(schedule, problem, discipline="buffered")
        assert (timeline.makespan, timeline.span) == (lag + 2, 2)
    found = timed(order, problem)[2]
    assert (found.sweeps, found.cycle, found.ways) == (2, (1,), (2,))


def test_no_way_begins_at_a_wait_that_nothing_holds() -> None:
    """The wait stands before its send (SV303), so that it is over at once, as early as the F that takes no time."""
    keys = {"ranks": 3, "microbatches": 1, "form": "inference", "placement": [2, 0, 1]}
    problem = Problem.chain(**keys, forward=[0, 3, 4], latency=5)
    rows = "1WAIT_SEND_F0 1RECV_F0 1F0 1SEND_F0\n2RECV_F0 2F0\n0F0 0SEND_F0"
    timeline = simulate(Schedule.parse(rows), problem)
    assert (timeline.makespan, timeline.span) == (17, 4)


@pytest.mark.parametrize("family", ["1f1b", "gpipe", "zb-h1"])
def test_families_take_few_sweeps(family: str) -> None:
    problem = Problem.chain(ranks=8, microbatches=32, form="split" if family == "zb-h1" else "fused", latency=1)
    assert timed(generate(family, problem), problem)[2].sweeps <= 3


@pytest.mark.slow
@pytest.mark.parametrize("costs", [1, [3, 1, 4, 1, 5, 9, 2, 6]])
def test_ten_million_operations_take_at_most_three_sweeps(costs: int | list[int]) -> None:
    problem = Problem.chain(ranks=8, microbatches=625_000, forward=costs, backward=2, latency=1)
    assert timed(generate("1f1b", problem), problem)[2].sweeps <= 3


@pytest.mark.parametrize("case", SPANS["order"], ids=lambda case: str(case["span"]))
def test_spans_that_are_known(case: dict[str, Any]) -> None:
    costs = {name: case[name] for name in ("forward", "backward_input", "backward_weight")}
    microbatches = 1 + max(int(number) for number in re.findall(r"F(\d+)", " ".join(case["rows"])))
    keys = {"ranks": len(case["rows"]), "microbatches": microbatches, "form": "split", "latency": case["latency"]}
    problem = Problem.chain(**keys, **costs)
    order = Schedule.parse("\n".join(case["rows"]))
    timeline = simulate(order, problem)
    assert (timeline.span, timeline.longest_window) == (case["span"], case["earliest_window"])
    assert timeline.makespan == case.get("makespan", timeline.makespan)
    busiest = max(timeline.measures.work)
    assert timeline.span_bubble == Fraction(case["span"] - busiest, case["span"])
    assert verify(order, problem, claims={"span": case["span"]})["SV501"].verdict is Verdict.HOLDS
    assert verify(order, problem, claims={"span": case["earliest_window"]})["SV501"].verdict is Verdict.VIOLATED


def test_first_steps_that_wait_make_a_timeline_longer() -> None:
    (case,) = SPANS["makespan_limit"]
    names = ("form", "placement", "edges", "forward", "latency", "microbatches")
    problem = Problem.chain(ranks=len(case["rows"]), **{name: case[name] for name in names})
    timeline = simulate(Schedule.parse("\n".join(case["rows"])), problem)
    assert (timeline.makespan, timeline.span) == (case["makespan"], case["span"])
