"""The count relaxation: known optima proved, no bound above brute force, and evidence that cannot be forged."""

from __future__ import annotations

import copy
import dataclasses
import json
from collections import Counter
from collections.abc import Callable
from functools import cache
from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings

from oracle.brute_force import brute_force
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.optimizer.bounds.formulas import Bound, best_bound
from schedverify.optimizer.counts.bound import IntegerWeights, count_bounds
from schedverify.optimizer.counts.relaxation import CountRow
from schedverify.simulator.engine import simulate
from schedverify.verifier.certificates import EvidenceError, proved_bound
from schedverify.verifier.certificates.counts import Windows
from schedverify.verifier.certificates.rows import Rows, Term
from support.random_schedules import base
from support.tiny_problems import tiny_problems

Starts = dict[tuple[str, int], list[int]]


def equal(ranks: int, microbatches: int, costs: tuple[int, int, int], capacity: int) -> Problem:
    """Return a problem of equal stages with latency 1, as findings and papers have it."""
    forward, backward_input, backward_weight = costs
    return Problem.chain(
        ranks=ranks, microbatches=microbatches, form="split", latency=1, capacity=capacity, activation=2,
        weight_stash=1, forward=forward, backward_input=backward_input, backward_weight=backward_weight,
    )  # fmt: skip


def uneven(placement: str) -> Problem:
    """Return a problem with two uneven stages on each rank."""
    return Problem.chain(
        ranks=2, microbatches=4, virtual=2, placement=placement, form="split", latency=2, capacity=8, activation=2,
        weight_stash=1, forward=[7, 5, 8, 6], backward_input=[9, 6, 7, 8], backward_weight=[4, 5, 3, 6],
    )  # fmt: skip


def last_bound(problem: Problem, objective: str, upper: int, seconds: float = 60) -> Bound | None:
    """Return the highest bound by counts up to a value, whatever other bounds come to."""
    found = count_bounds(problem, objective, lower=0, upper=upper, seconds=seconds)
    return max(found, key=lambda bound: bound.value, default=None)


@pytest.mark.parametrize(
    ("problem", "optimum", "counts"),
    [
        (equal(16, 32, (1, 1, 1), 32), 171, 171),
        (equal(8, 16, (1, 1, 1), 12), 103, 103),
        (equal(8, 16, (18, 18, 10), 16), 946, 946),
    ],
    ids=["P16M32", "P8M16", "P8M16-18-18-10"],
)
def test_it_comes_to_what_is_known_of_equal_stages(problem: Problem, optimum: int, counts: int) -> None:
    bound = last_bound(problem, "makespan", optimum)
    assert bound is not None
    assert bound.value == counts
    assert proved_bound(problem, "makespan", json.loads(json.dumps(bound.evidence))) == counts


def test_it_counts_both_ways_back_where_the_whole_backward_is_cheaper() -> None:
    problem = Problem.chain(
        ranks=2, microbatches=4, form="split", latency=2, capacity=8, activation=2, weight_stash=1,
        forward=[7, 3], backward=[11, 8], backward_input=[7, 5], backward_weight=[6, 3],
    )  # fmt: skip
    bound = last_bound(problem, "makespan", 84, seconds=10)
    assert bound is not None
    assert bound.value >= 67, "without the rule that B and I are as many as micro-batches together it is 65 at most"
    assert proved_bound(problem, "makespan", bound.evidence) == bound.value


@settings(max_examples=120, deadline=None, derandomize=True, database=None)
@given(problem=tiny_problems(a_rank=6, in_all=14))
def test_no_bound_is_above_brute_force(problem: Problem) -> None:
    truth = brute_force(problem)
    for objective in ("makespan", "span"):
        value = truth.value(objective)
        for bound in count_bounds(problem, objective, lower=0, upper=(value or 0) + 8, seconds=30) if value else ():
            assert bound.value <= value
            assert proved_bound(problem, objective, bound.evidence) == bound.value


def left_side(terms: list[Term], starts: Starts, tick: int) -> int:
    return sum(factor * sum(start <= tick - delay for start in starts.get(one, ())) for one, factor, delay in terms)


def every_row(problem: Problem) -> list[tuple[str, tuple[int, ...], list[Term], int]]:
    rows, found = Rows(problem), []
    for name in ("forward", "gradient", "turn", "weight", "rank", "bytes", "in_flight", "in_flight_stage"):
        for at in product(
            range(max(problem.ranks, problem.total_stages)), repeat=1 + (name in ("forward", "gradient"))
        ):
            try:
                found.append((name, at, *rows.row(name, at)))
            except EvidenceError:
                continue
    return found


def test_every_schedule_keeps_every_row_and_window() -> None:
    tight: Counter[str] = Counter()
    for number in range(600):
        found = base(number)
        problem = found.problem
        whole = any("B" in text for row in found.rows for text in row)
        pairs = any("OVERLAP" in text for row in found.rows for text in row)
        several = problem.form != "inference" and any(len(ranks) > 1 for ranks in problem.placement)
        if not found.fits or several or pairs or (whole and problem.form == "split"):
            continue
        schedule = Schedule.of(found.rows)
        timeline = simulate(schedule, problem)
        steps = zip(schedule.strings(), timeline.starts, strict=True)
        starts: Starts = {}
        once = {text: start for row, begun in steps for text, start in zip(row, begun.tolist(), strict=True)}
        for text, start in once.items():
            kind = next(letter for letter in text if letter.isalpha())
            starts.setdefault((kind, int(text.partition(kind)[0])), []).append(start)
        for name, at, terms, limit in every_row(problem):
            sides = [left_side(terms, starts, tick) for tick in range(timeline.makespan + 9)]
            assert max(sides) <= limit, f"base {number}: {name} at {at}\n{found.data}\n{found.rows}"
            tight[name] += max(sides) == limit
        windows = Windows(Rows(problem), makespan=True)
        for one, begun in starts.items():
            rest = windows.rest[one]
            assert windows.first[one] <= min(begun)
            assert rest is not None
            assert max(begun) + rest <= timeline.makespan
    assert len(tight) == 8
    assert min(tight.values()) > 10, "each row is met with equality by some schedule"


@cache
def proof(placement: str = "loop", objective: str = "makespan") -> tuple[Problem, Bound]:
    problem = uneven(placement)
    bound = last_bound(problem, objective, 250)
    assert bound is not None
    return problem, bound


@pytest.mark.parametrize("objective", ["makespan", "span"])
@pytest.mark.parametrize(("placement", "optimum"), [("loop", 164), ("v", 163)])
def test_the_optimum_of_two_uneven_stages_on_a_rank_is_proved(placement: str, optimum: int, objective: str) -> None:
    problem, bound = proof(placement, objective)
    known = best_bound(problem, objective)
    assert known is not None
    assert known.value < bound.value == optimum
    assert proved_bound(problem, objective, bound.evidence) == bound.value


def without(name: str) -> Callable[[dict[str, Any]], None]:
    def drop(evidence: dict[str, Any]) -> None:
        evidence["rows"] = [row for row in evidence["rows"] if row["row"] != name]

    return drop


def on_first_row(key: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def alter(evidence: dict[str, Any]) -> None:
        evidence["rows"][0][key] = change(evidence["rows"][0][key])

    return alter


def on_evidence(key: str, change: Callable[[Any], Any]) -> Callable[[dict[str, Any]], None]:
    def alter(evidence: dict[str, Any]) -> None:
        evidence[key] = change(evidence[key])

    return alter


def heavier_limits(evidence: dict[str, Any]) -> None:
    for row in evidence["rows"]:
        if row["row"] in ("rank", "bytes"):
            row["weights"] = [weight + 10**9 for weight in row["weights"]]


FORGERIES: dict[str, tuple[Callable[[dict[str, Any]], None], str]] = {
    "a bound one higher": (on_evidence("bound", lambda bound: bound + 1), "rule out no schedule"),
    "a bound much higher": (on_evidence("bound", lambda bound: bound + 10**6), "rule out no schedule"),
    "no bound": (lambda evidence: evidence.pop("bound"), "states a bound"),
    "a bound that is none": (on_evidence("bound", lambda _: True), "states a bound"),
    "no rows": (on_evidence("rows", lambda _: []), "rule out no schedule"),
    "rows that are none": (on_evidence("rows", lambda _: "all"), "gives rows"),
    "a row that is none": (on_evidence("rows", lambda rows: [*rows, 7]), "a row names itself"),
    "the ranks run several steps": (without("rank"), "rule out no schedule"),
    "nobody waits for gradients": (without("gradient"), "rule out no schedule"),
    "nobody waits for activations": (without("forward"), "rule out no schedule"),
    "weights beyond the budget": (heavier_limits, "rule out no schedule"),
    "an unknown row": (on_first_row("row", lambda _: "luck"), "unknown row 'luck'"),
    "a place that is none": (on_first_row("at", lambda at: [*at[:-1], 99]), "there is no row"),
    "a place too many": (on_first_row("at", lambda at: [*at, 0]), "whole numbers"),
    "a place below zero": (on_first_row("at", lambda at: [*at[:-1], -1]), "whole numbers"),
    "a weight below zero": (on_first_row("weights", lambda weights: [-1, *weights[1:]]), "from 0 on"),
    "a weight that is none": (on_first_row("weights", lambda weights: [True, *weights[1:]]), "from 0 on"),
    "half a weight": (on_first_row("weights", lambda weights: [0.5, *weights[1:]]), "from 0 on"),
    "a weight too few": (on_first_row("weights", lambda weights: weights[1:]), "one more times"),
    "times that fall": (on_first_row("times", lambda times: [times[1], times[0], *times[2:]]), "times of a row rise"),
    "times that stand": (on_first_row("times", lambda times: [times[1], *times[1:]]), "times of a row rise"),
    "no times": (on_first_row("times", lambda _: None), "has times and weights"),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_forged_evidence_is_refused(name: str) -> None:
    problem, bound = proof()
    forge, said = FORGERIES[name]
    evidence = copy.deepcopy(bound.evidence)
    forge(evidence)
    with pytest.raises(EvidenceError, match=said):
        proved_bound(problem, "makespan", evidence)


def test_evidence_is_for_its_own_problem_and_objective() -> None:
    problem, bound = proof()
    _, of_span = proof("loop", "span")
    with pytest.raises(EvidenceError, match="it is for the makespan"):
        proved_bound(problem, "span", bound.evidence)
    faster = dataclasses.replace(problem, forward=tuple(ticks - 1 for ticks in problem.forward))
    with pytest.raises(EvidenceError):
        proved_bound(faster, "makespan", bound.evidence)
    assert of_span.value == bound.value


def test_evidence_too_long_to_check_is_refused() -> None:
    problem, bound = proof()
    long = {"row": "rank", "at": [0], "times": list(range(200_001)), "weights": [0] * 200_000}
    with pytest.raises(EvidenceError, match="too long to check"):
        proved_bound(problem, "makespan", bound.evidence | {"rows": [long]})


def test_where_the_relaxation_says_nothing_nothing_is_claimed() -> None:
    several = Problem.chain(ranks=2, microbatches=2, placement=[0, [0, 1]])
    assert not list(count_bounds(several, "makespan", lower=0, upper=99, seconds=5))
    with pytest.raises(EvidenceError, match="several ranks"):
        proved_bound(several, "makespan", {"rule": "counts", "bound": 1, "rows": []})
    opposite = Problem.chain(ranks=2, microbatches=4, replicas=2)
    assert not list(count_bounds(opposite, "span", lower=0, upper=99, seconds=5))
    with pytest.raises(EvidenceError, match="bound no span"):
        proved_bound(opposite, "span", {"rule": "counts", "bound": 1, "rows": []})


def test_a_search_that_is_stopped_or_out_of_time_ends() -> None:
    problem = equal(8, 32, (18, 18, 10), 16)
    assert not list(count_bounds(problem, "makespan", lower=0, upper=1682, seconds=30, stopped=lambda: True))
    assert not list(count_bounds(problem, "makespan", lower=0, upper=1682, seconds=0))


def test_where_nothing_takes_time_nothing_is_proved() -> None:
    nothing = Problem.chain(ranks=3, microbatches=3, edges=[[0, 1], [0, 2]], forward=0, backward=0)
    for objective in ("makespan", "span"):
        assert not list(count_bounds(nothing, objective, lower=0, upper=None, seconds=5))


def test_sums_of_weights_that_64_bits_cannot_hold_are_known() -> None:
    row = IntegerWeights(CountRow("", (), ()), np.array([0, 5, 1 << 52]), np.array([3, 30_000_000]))
    assert row.total == 15 + 30_000_000 * ((1 << 52) - 5) > 1 << 63
