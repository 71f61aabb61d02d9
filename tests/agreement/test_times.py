"""The oracle's times, measures and verdicts on timelines are the verifier's; no evidence refutes a schedule."""

from __future__ import annotations

import dataclasses
import random
from typing import Any

import pytest

from oracle.compute_orders import peaks
from oracle.lowered_times import Run
from oracle.messages import Wires
from oracle.span import batch_of, by_cycle_means
from oracle.times import Clock, Times, earliest, is_possible
from oracle.times import measures as plain_measures
from schedverify.core.problem import Problem
from schedverify.core.result import Verdict
from schedverify.core.schedule import Schedule
from schedverify.simulator.engine import simulate
from schedverify.verifier.certificates import EvidenceError, proved_bound
from schedverify.verifier.verification import verify
from support.random_lowered import lowered
from support.random_schedules import Base, base

BASES = 300


def measures(rows: list[list[str]], data: dict[str, Any]) -> dict[str, Any]:
    """Return the measures of a valid schedule, the span among them."""
    return plain_measures(rows, data) | {"span": by_cycle_means(batch_of(Clock(rows, data)), len(rows))}


def verdict_on(found: Base, code: str, claims: dict) -> Verdict:
    return verify(Schedule.of(found.rows), found.problem, select=[code], claims=claims)[code].verdict


def shifted(rng: random.Random, times: Times) -> Times:
    """Return times that are all later, or not, and of which up to two are changed."""
    delay = rng.choice([0, 0, 3])
    changed = [[start + delay for start in row] for row in times]
    for _ in range(rng.randint(0, 2)):
        rank = rng.choice([rank for rank, row in enumerate(times) if row])
        changed[rank][rng.randrange(len(times[rank]))] += rng.choice([-2, -1, 1, 2])
    return changed


def test_starts_and_measures_agree() -> None:
    for number in range(BASES):
        found = base(number)
        timeline = simulate(Schedule.of(found.rows), found.problem)
        story = f"base {number}\nproblem: {found.data}\nrows: {found.rows}"
        assert [row.tolist() for row in timeline.starts] == earliest(found.rows, found.data), story
        for name, value in measures(found.rows, found.data).items():
            assert getattr(timeline.measures, name) == value, f"{name} of {story}"
        true = peaks(found.rows, found.data)
        assert list(timeline.peak_in_flight) == true["in_flight"], story
        assert list(timeline.peak_memory) == true["capacity"], story


def test_verdicts_on_timelines_agree() -> None:
    outcomes = {True: 0, False: 0}
    for number in range(BASES):
        found = base(number)
        rng = random.Random(f"times {number}")
        for _ in range(4):
            times = shifted(rng, earliest(found.rows, found.data))
            possible = is_possible(found.rows, found.data, times)
            outcomes[possible] += 1
            verdict = verdict_on(found, "SV202", {"timeline": times})
            expected = Verdict.HOLDS if possible else Verdict.VIOLATED
            assert verdict is expected, f"base {number}: {times}\nproblem: {found.data}\nrows: {found.rows}"
    assert min(outcomes.values()) > 200


@pytest.mark.parametrize("name", ["makespan", "span", "bubble_fraction", "peak_in_flight", "peak_memory"])
def test_only_what_follows_may_be_claimed(name: str) -> None:
    for number in range(0, BASES, 8):
        found = base(number)
        true = peaks(found.rows, found.data)
        named = {"peak_in_flight": true["in_flight"], "peak_memory": true["capacity"]}
        value = (measures(found.rows, found.data) | named)[name]
        wrong = [*value[:-1], value[-1] + 1] if isinstance(value, list) else value + 1
        text = str(value) if name == "bubble_fraction" else value
        assert verdict_on(found, "SV501", {name: text}) is Verdict.HOLDS
        assert verdict_on(found, "SV501", {name: wrong}) is Verdict.VIOLATED


def test_a_makespan_limit_is_that_of_what_is_judged() -> None:
    """Of the compute order its own makespan, of a lowered one that of its own run, each to the tick."""
    longer = 0
    for number in range(0, BASES, 3):
        found = base(number)
        rng = random.Random(f"limit {number}")
        rows = lowered(rng, found.rows, Wires(found.data))
        run = Run(rows, found.data, "pair")
        made = [(found.rows, measures(found.rows, found.data)["makespan"])]
        if not run.stuck:
            made.append((rows, max((end for row in run.compute_times for _, end in row), default=0)))
            longer += made[1][1] > made[0][1]
        for order, makespan in made:
            for limit, expected in ((makespan, Verdict.HOLDS), (makespan - 1, Verdict.VIOLATED)):
                if limit > 0:
                    problem = dataclasses.replace(found.problem, makespan_limit=limit)
                    report = verify(Schedule.of(order), problem, select=["SV503"])
                    assert report["SV503"].verdict is expected, f"base {number}, {limit}: {order}"
    assert longer > 10


def certificates(problem: Problem) -> list[dict]:
    stages = range(problem.total_stages)
    pairs = [{"rule": "pair", "stages": [s, t]} for s in stages for t in stages]
    return [*({"rule": rule, "rank": rank} for rule in ("load", "idle") for rank in range(problem.ranks)), *pairs]


def test_no_evidence_bounds_above_a_schedule_that_fits() -> None:
    tight = set()
    for number in range(BASES * 3):
        found = base(number)
        if not found.fits:
            continue
        true = measures(found.rows, found.data)
        for objective in ("makespan", "span"):
            for certificate in certificates(found.problem):
                try:
                    bound = proved_bound(found.problem, objective, certificate)
                except EvidenceError:
                    continue
                assert bound <= true[objective], (
                    f"base {number}: {certificate} of {objective}\n{found.data}\n{found.rows}"
                )
                if bound == true[objective]:
                    tight.add((certificate["rule"], objective))
    assert len(tight) == 6, "each rule is met with equality by some schedule"
