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
from schedverify.verifier.certificates import Derivation, EvidenceError, proved_bound
from schedverify.verifier.certificates.peak import proved_peak
from schedverify.verifier.certificates.rows import Rows
from schedverify.verifier.certificates.windows import Windows
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


@pytest.mark.parametrize(("ranks", "microbatches", "latency"), [(1, 1, 0), (4, 8, 0), (3, 5, 2)])
def test_load_and_pair_of_equal_stages_by_hand(ranks: int, microbatches: int, latency: int) -> None:
    shape: dict[str, Any] = {"ranks": ranks, "microbatches": microbatches, "latency": latency, "forward": 3}
    fused = Problem.chain(**shape, backward=5)
    split = Problem.chain(**shape, backward_input=4, backward_weight=2)
    forwards = Problem.chain(**shape, form="inference")
    for rank in range(ranks):
        load = {"rule": "load", "rank": rank}
        behind = ranks - 1 - rank
        assert proved_bound(fused, "makespan", load) == 8 * (microbatches + rank) + 2 * latency * rank
        assert proved_bound(split, "makespan", load) == 9 * microbatches + (3 + latency) * rank
        assert proved_bound(forwards, "makespan", load) == 3 * microbatches + (3 + latency) * (rank + behind)
        assert proved_bound(fused, "span", load) == 8 * microbatches
        assert proved_bound(forwards, "span", load) == 3 * microbatches
        first = {"rule": "pair", "stages": [0, rank]}
        way = (3 + 4 + 2 * latency) * rank
        assert proved_bound(split, "makespan", first) == way + (7 if rank else 9) * microbatches + (2 if rank else 0)
        later = {"rule": "pair", "stages": [rank, ranks - 1]}
        more = (3 + 5 + 2 * latency) * behind + 8 * microbatches
        assert proved_bound(fused, "span", later) == more
        assert proved_bound(fused, "makespan", later) == more + (3 + latency) * rank


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
        most = sum(number[s] * max(problem.activation[s], problem.kept[s]) for s in used)
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


def test_what_weights_prove_of_one_rank_by_hand() -> None:
    """Two micro-batches of 1 + 2 ticks on one rank: each tick of a step uses one of the rank's ticks."""
    problem = Problem.chain(ranks=1, microbatches=2, forward=1, backward=2)

    def claim(bound: int, times: list[int], weights: list[int]) -> int:
        rows = [{"row": "rank", "at": [0], "times": times, "weights": weights}]
        return proved_bound(problem, "makespan", {"rule": "counts", "bound": bound, "rows": rows})

    assert claim(6, [0, 5], [1]) == 6
    assert claim(6, [0, 2, 5], [3, 3]) == 6
    for bound, times, weights, said in (
        (7, [0, 6], [1], "6 ticks: 6 is due, 6 is there"),
        (6, [0, 6], [1], "5 ticks: 6 is due, 6 is there"),
        (6, [1, 5], [1], "5 ticks: 4 is due, 4 is there"),
        (6, [0, 5], [0], "5 ticks: 0 is due, 0 is there"),
    ):
        with pytest.raises(EvidenceError, match=f"its weights rule out no schedule of {said}"):
            claim(bound, times, weights)


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


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        ({"rule": "load"}, "it names no rank of this problem"),
        ({"rule": "load", "rank": -1}, "it names no rank of this problem"),
        ({"rule": "load", "rank": 2}, "it names no rank of this problem"),
        ({"rule": "load", "rank": True}, "it names no rank of this problem"),
        ({"rule": "load", "rank": 0.0}, "it names no rank of this problem"),
        ({"rule": "idle", "rank": 2}, "it names no rank of this problem"),
        ({"rule": "pair"}, "the rule pair names two stages"),
        ({"rule": "pair", "stages": "01"}, "the rule pair names two stages"),
        ({"rule": "pair", "stages": [0]}, "the rule pair names two stages"),
        ({"rule": "pair", "stages": [0, 1, 1]}, "the rule pair names two stages"),
        ({"rule": "pair", "stages": [0, 2]}, "it names no stage of this problem"),
        ({"rule": "pair", "stages": [1, 0]}, "stage 0 is not reached from stage 1 by a way that leads back"),
        ({"rule": "luck"}, "unknown rule 'luck'; known: load, pair, idle, counts"),
        ({}, "unknown rule 'None'; known: load, pair, idle, counts"),
        ({"rule": "l" * 50}, f"unknown rule '{'l' * 40}'; known: load, pair, idle, counts"),
        ({"rule": "load", "rank": 0, "objective": "span"}, "it is for the span, the claim is for the makespan"),
        ({"rule": "counts", "rows": []}, "the rule counts states a bound and gives rows"),
        ({"rule": "counts", "bound": 1, "rows": {}}, "the rule counts states a bound and gives rows"),
        ({"rule": "counts", "bound": 1, "rows": [{"row": "x" * 50}]}, f"unknown row '{'x' * 40}'; known: forward, "
         "gradient, turn, weight, rank, bytes, in_flight, in_flight_stage"),
        ({"rule": "counts", "bound": 1, "rows": [{"row": "bytes", "at": [0]}]}, "there is no row bytes at [0] here"),
        ({"rule": "counts", "bound": 1, "rows": [{"row": "rank", "at": 0}]},
         "the place of the row rank is 1 whole numbers"),
    ],
)  # fmt: skip
def test_evidence_that_is_none_says_what_is_wrong(evidence: dict[str, Any], said: str) -> None:
    with pytest.raises(EvidenceError) as error:
        proved_bound(Problem.chain(ranks=2, microbatches=2), "makespan", evidence)
    assert str(error.value) == said


@pytest.mark.parametrize(
    ("evidence", "said"),
    [
        ({"rule": "sequence", "rank": 2}, "it names no rank of this problem"),
        ({"rule": "memory", "stage": 2}, "it names no stage of this problem"),
        ({"rule": "memory", "stage": None}, "it names no stage of this problem"),
        ({"rule": "load", "rank": 0}, "unknown rule 'load'; known: sequence, memory"),
    ],
)
def test_evidence_for_a_peak_that_is_none_says_what_is_wrong(evidence: dict[str, Any], said: str) -> None:
    with pytest.raises(EvidenceError) as error:
        proved_peak(Problem.chain(ranks=2, microbatches=2), "peak-memory", evidence)
    assert str(error.value) == said


def test_rules_refuse_the_problems_that_they_do_not_hold_for() -> None:
    pair: dict[str, Any] = {"ranks": 2, "microbatches": 2, "forward": 2, "backward": 4}
    said = "overlapped pairs cost less than the sum here, which no rule accounts for"
    for cost in (5, 6):
        problem = Problem.chain(**pair, overlapped=[{"forward": 0, "backward": 1, "cost": cost}])
        if cost == 6:
            assert proved_bound(problem, "span", {"rule": "load", "rank": 0}) == 12
        else:
            with pytest.raises(EvidenceError, match=said):
                proved_bound(problem, "span", {"rule": "load", "rank": 0})
    forwards = Problem.chain(ranks=2, microbatches=2, form="inference")
    with pytest.raises(EvidenceError, match=r"^without a backward nothing is held$"):
        proved_bound(forwards, "span", {"rule": "idle", "rank": 0})
    with pytest.raises(EvidenceError, match=r"^stage 1 is not reached from stage 0 by a way that leads back$"):
        proved_bound(forwards, "span", {"rule": "pair", "stages": [0, 1]})
    with pytest.raises(EvidenceError, match=r"^no rule bounds the peak-memory$"):
        proved_bound(forwards, "peak-memory", {"rule": "load", "rank": 0})
    refused = r"^stage 0 is not alone on rank 0 in training, with a forward that takes time$"
    for problem in (forwards, Problem.chain(ranks=2, microbatches=2, virtual=2),
                    Problem.chain(ranks=2, microbatches=2, forward=[0, 1])):  # fmt: skip
        with pytest.raises(EvidenceError, match=refused):
            proved_peak(problem, "peak-memory", {"rule": "memory", "stage": 0})
