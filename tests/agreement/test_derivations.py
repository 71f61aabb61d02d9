"""The bounds of the optimizer and those that the verifier derives: the same numbers, from two codes and by hand."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np
import pytest

from schedverify.core.problem import Problem
from schedverify.optimizer.bounds.costs import Costs
from schedverify.optimizer.bounds.formulas import (
    Bound,
    admission_bounds,
    best_bound,
    best_peak_bound,
    idle_bounds,
    load_bounds,
    pair_bounds,
    sequence_bounds,
)
from schedverify.optimizer.counts.bound import IntegerWeights, least_payment, prove, rounded_weights
from schedverify.optimizer.counts.program import RowWeights
from schedverify.optimizer.counts.relaxation import CountRow, Counts
from schedverify.verifier.certificates import Derivation, EvidenceError, proved_bound, proved_peak
from schedverify.verifier.certificates.counts import Windows
from schedverify.verifier.certificates.rows import Rows
from support.random_schedules import base

OBJECTIVES = ("makespan", "span")
NO_SPAN = "no rank has all the stages that nothing feeds, so counts bound no span here"
Terms = Iterable[tuple[tuple[str, int], int, int]]


def problems(count: int) -> Iterator[Problem]:
    """Yield random problems of every form and shape to which the rules apply: no overlapped pair costs less."""
    for number in range(count):
        problem = base(number).problem
        try:
            Derivation(problem, "makespan", None)
        except EvidenceError:
            continue
        yield problem


def reached(problem: Problem, start: int) -> set[int]:
    found, front = {start}, [start]
    while front:
        new = set(problem.successors[front.pop()]) - found
        found |= new
        front += new
    return found


def places(bounds: Iterable[Bound]) -> list[Any]:
    return [bound.evidence.get("rank", bound.evidence.get("stages", bound.evidence.get("stage"))) for bound in bounds]


def test_formulas_for_times_agree_at_every_place() -> None:
    for problem in problems(300):
        trains = problem.form != "inference"
        passing = [s for s in range(problem.total_stages) if problem.copy_of(s) in problem.replica_of]
        for objective in OBJECTIVES:
            costs = Costs(problem)
            load, pair = list(load_bounds(costs, objective)), list(pair_bounds(costs, objective))
            idle = list(idle_bounds(costs, objective))
            assert best_bound(problem, objective) == max([*load, *pair, *idle], key=lambda bound: bound.value)
            for bound in [*load, *pair, *idle]:
                assert proved_bound(problem, objective, bound.evidence) == bound.value, (problem.to_dict(), bound)
                assert bound.evidence["objective"] == objective
                assert bound.evidence["bound"] == bound.value
            assert places(load) == list(range(problem.ranks))
            assert sorted(places(pair)) == [
                [s, t] for s in (passing if trains else ()) for t in sorted(reached(problem, s))
            ]
            assert places(idle) == [
                rank for rank, stages in enumerate(problem.stages_of) if trains and set(stages) & set(passing)
            ]


def test_formulas_for_the_peak_agree_at_every_place() -> None:
    above = 0
    for problem in problems(300):
        costs = Costs(problem)
        sequence = list(sequence_bounds(costs))
        assert places(sequence) == list(range(problem.ranks))
        for bound in sequence:
            assert bound.evidence["bound"] == bound.value
            assert proved_peak(problem, "peak-memory", bound.evidence) == bound.value, (problem.to_dict(), bound)
        alone = [s for s in range(problem.total_stages) if problem.stages_of[problem.owner_rank[s]] == (s,)]
        if problem.form == "inference":
            assert not list(admission_bounds(costs, ("span", 0)))
            continue
        wanted = [s for s in alone if costs.count[s] and problem.forward[s]]
        for objective in OBJECTIVES:
            for most in (0, 5, 11, 18, 26, 99):
                found = list(admission_bounds(costs, (objective, most)))
                assert places(found) == wanted
                limited = dataclasses.replace(problem, makespan_limit=most)
                for bound in found:
                    assert bound.evidence["bound"] == bound.value
                    story = (problem.to_dict(), objective, most, bound)
                    assert proved_peak(problem, "peak-memory", bound.evidence, (objective, most)) == bound.value, story
                    under = proved_peak(limited, "peak-memory", bound.evidence)
                    assert (under == bound.value) or objective == "span", story
                    above += bound.value > proved_peak(problem, "peak-memory", bound.evidence)
                best = max(bound.value for bound in [*sequence, *found])
                assert best_peak_bound(problem, (objective, most)).value == best
                if objective == "makespan":
                    assert best_peak_bound(limited).value == best
    assert above > 500


def summed(terms: Terms) -> dict[tuple[tuple[str, int], int], int]:
    """Return how often each class counts in a row at each delay, without what adds up to nothing."""
    total: Counter[tuple[tuple[str, int], int]] = Counter()
    for one, factor, delay in terms:
        total[one, delay] += factor
    return {key: factor for key, factor in total.items() if factor}


def test_rows_and_windows_of_the_count_relaxation_agree() -> None:
    met: Counter[str] = Counter()
    for problem in problems(300):
        if problem.form != "inference" and any(len(ranks) > 1 for ranks in problem.placement):
            continue
        rows, counts = Rows(problem), Counts(problem, "makespan")
        for row in counts.rows:
            terms, limit = rows.row(row.name, list(row.at))
            assert (summed(terms), limit) == (summed(row.terms), row.limit), (problem.to_dict(), row)
            met[row.name] += 1
        assert sorted((row.name, row.at) for row in counts.rows) == sorted(wanted_rows(problem, counts))
        for objective in OBJECTIVES:
            counts = Counts(problem, objective)
            if not counts.bounded:
                with pytest.raises(EvidenceError, match=f"^{NO_SPAN}$"):
                    Windows(rows, makespan=False)
                continue
            windows = Windows(rows, makespan=objective == "makespan")
            assert counts.release == windows.first, problem.to_dict()
            after = {one: None if ticks is None else ticks + counts.cost[one] for one, ticks in counts.after.items()}
            assert after == {one: windows.rest[one] for one in after}, (problem.to_dict(), objective)
            known = [windows.first[one] + ticks for one, ticks in after.items() if ticks is not None]
            assert counts.least == max(known, default=0)
            assert counts.latest(counts.classes[0], 999) == (None if (rest := after[counts.classes[0]]) is None
                                                             else 999 - rest)  # fmt: skip
    assert min(met.values()) > 10, met
    assert len(met) == 8


def wanted_rows(problem: Problem, counts: Counts) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Yield the rows that can be broken, from the page on bounds."""
    trains, number = problem.form != "inference", counts.number
    for s in number:
        yield from (("forward", (b, s)) for b in problem.predecessors[s])
        if trains:
            yield from (("gradient", (t, s)) for t in problem.successors[s])
            yield from [("turn", (s,))] if not problem.successors[s] else []
            yield from [("weight", (s,))] if ("W", s) in counts.cost else []
            if problem.in_flight_stage is not None and number[s] > problem.in_flight_stage[s]:
                yield "in_flight_stage", (s,)
    for rank, stages in enumerate(problem.stages_of):
        used = [s for s in stages if s in number]
        if any(cost for one, cost in counts.cost.items() if one[1] in used):
            yield "rank", (rank,)
        if trains and problem.in_flight is not None and sum(number[s] for s in used) > problem.in_flight[rank]:
            yield "in_flight", (rank,)
        most = sum(number[s] * max(problem.activation[s], problem.saved_activation_bytes[s]) for s in used)
        if trains and problem.capacity is not None and most > problem.capacity[rank] - problem.static[rank]:
            yield "bytes", (rank,)


def weighed(rng: random.Random, row: CountRow, ticks: int) -> IntegerWeights:
    times = sorted(rng.sample(range(ticks + 9), rng.randint(2, 5)))
    return IntegerWeights(row, np.array(times), np.array([rng.choice([0, 1, 2, 7]) for _ in times[1:]]))


def test_prices_agree() -> None:
    """Of any weights on any rows, both say what is due and what is there."""
    rng, shown, proved = random.Random(4), 0, 0
    for problem in problems(250):
        if problem.form != "inference" and any(len(ranks) > 1 for ranks in problem.placement):
            continue
        for objective in OBJECTIVES:
            counts = Counts(problem, objective)
            if not counts.bounded or not counts.rows:
                continue
            limit = counts.least + counts.unit * rng.randint(0, 6)
            rows = [weighed(rng, row, limit) for row in counts.rows if rng.random() < 0.6]
            due = least_payment(counts, limit, rows)
            there = sum(row.row.limit * int((row.weight * np.diff(row.times)).sum()) for row in rows)
            evidence = {"rule": "counts", "rows": [row.evidence() for row in rows], "bound": limit + counts.unit}
            if due > there:
                assert proved_bound(problem, objective, evidence) == limit + counts.unit
                proved += 1
            else:
                said = f"its weights rule out no schedule of {limit} ticks: {due} is due, {there} is there"
                with pytest.raises(EvidenceError, match=f"^{said}$"):
                    proved_bound(problem, objective, evidence)
                shown += due != 0
    assert shown > 100
    assert proved > 0


def test_found_weights_become_whole_ones() -> None:
    row = CountRow("rank", (0,), ((("F", 0), 1, 0), (("F", 0), -1, 4)), 1)
    found = RowWeights(row, np.array([0, 2, 4, 8, 10]), np.array([0.5, 0.52, 1.0, 0.001, 0.5]))
    whole = rounded_weights(found, 10.0, 2)
    assert whole is not None
    assert whole.evidence() == {"row": "rank", "at": [0], "times": [0, 4, 6, 10, 12], "weights": [5, 10, 0, 5]}
    assert whole.rest.tolist() == [50, 30, 10, 10, 0]
    assert whole.onward(np.array([-3, 0, 1, 4, 5, 6, 9, 10, 11, 12, 40])).tolist() == [
        50, 50, 45, 30, 20, 10, 10, 10, 5, 0, 0,
    ]  # fmt: skip
    assert rounded_weights(found, 0.4, 2) is None


def test_weights_whose_sums_pass_64_bits_prove_nothing() -> None:
    """One rank works 6 ticks, so weight 1 over 5 ticks is a proof; over 2 ** 50 only an overflow is."""
    counts = Counts(Problem.chain(ranks=1, microbatches=2, forward=1, backward=2), "makespan")
    row = next(row for row in counts.rows if row.name == "rank")
    found = [RowWeights(row, np.array([0]), np.array([1.0]))]
    assert prove(counts, 5, 5, found) == [{"row": "rank", "at": [0], "times": [0, 5], "weights": [30]}]
    assert prove(counts, 6, 1 << 50, found) is None
    assert prove(counts, 6, 1 << 58, found) is None
