"""Bounds by formula on times and peaks: what they come to by hand, with the place that they name."""

from __future__ import annotations

import pytest

from schedverify.core.problem import Problem
from schedverify.optimizer.bounds.costs import Costs
from schedverify.optimizer.bounds.formulas import (
    admission_bounds,
    best_bound,
    best_peak_bound,
    idle_bounds,
    load_bounds,
    pair_bounds,
    sequence_bounds,
)

FUSED = Problem.chain(ranks=3, microbatches=4, forward=[1, 2, 3], backward=[2, 4, 6], latency=10)
SPLIT = Problem.chain(ranks=2, microbatches=4, forward=3, backward_input=4, backward_weight=2, latency=1)


def test_paths_of_a_chain_by_hand() -> None:
    """Heads: 11, 11 + 12. Tails: 10 + B of each stage before. Turns: there, through all behind, and back."""
    costs = Costs(FUSED)
    assert costs.head == [0, 11, 23]
    assert costs.tail == [0, 12, 26]
    assert costs.turn == [1 + 10 + (2 + 10 + (3 + 6) + 10 + 4) + 10, 2 + 10 + 3 + 6 + 10, 3]
    assert costs.ways(0) == {0: (0, 0), 1: (11, 12), 2: (23, 26)}
    assert costs.work == [12, 24, 36]


def test_a_split_backward_costs_the_lesser_of_both_forms() -> None:
    problem = Problem.chain(
        ranks=1, microbatches=2, form="split", forward=1, backward=5, backward_input=4, backward_weight=3
    )
    costs = Costs(problem)
    assert (costs.gradient, costs.backward, costs.rest, costs.work) == ([4], [5], [1], [12])


def test_in_inference_forwards_must_follow() -> None:
    costs = Costs(Problem.chain(ranks=3, microbatches=2, form="inference", forward=[1, 2, 3], latency=1))
    assert (costs.tail, costs.backward, costs.trains) == ([7, 4, 0], [0, 0, 0], False)


@pytest.mark.parametrize(
    ("objective", "values"), [("makespan", [12, 11 + 24 + 12, 23 + 36 + 26]), ("span", [12, 24, 36])]
)
def test_loads(objective: str, values: list[int]) -> None:
    bounds = list(load_bounds(Costs(FUSED), objective))
    assert [bound.value for bound in bounds] == values
    assert [bound.evidence for bound in bounds] == [
        {"rule": "load", "rank": rank, "objective": objective, "bound": value} for rank, value in enumerate(values)
    ]


def test_pairs() -> None:
    """From stage 0 to 1: there 3 + 1, 4 * (3 + 4) on the last rank, back 1 + 4 + 2; the last alone behind its head."""
    found = {tuple(bound.evidence["stages"]): bound.value for bound in pair_bounds(Costs(SPLIT), "makespan")}
    assert found == {(0, 0): 36, (0, 1): 4 + 28 + 7, (1, 1): 4 + 36}
    spans = {tuple(bound.evidence["stages"]): bound.value for bound in pair_bounds(Costs(SPLIT), "span")}
    assert spans == {(0, 0): 36, (0, 1): 39, (1, 1): 36}


def test_the_best_bound_is_the_highest_of_all() -> None:
    best = best_bound(SPLIT, "makespan")
    assert best is not None
    idle = [bound.value for bound in idle_bounds(Costs(SPLIT), "makespan")]
    assert best.value == max(40, *idle)
    assert best.evidence["bound"] == best.value


def test_a_sequence_must_be_held() -> None:
    """Two stages of a V on each rank; at stage 3 rank 0 holds stage 0 as well, on top of its static bytes."""
    problem = Problem.chain(ranks=2, microbatches=2, virtual=2, placement="v", activation=[1, 2, 3, 4], static=[10, 20])
    bounds = list(sequence_bounds(Costs(problem)))
    assert [bound.value for bound in bounds] == [10 + 1 + 4, 20 + 2 + 3]
    assert best_peak_bound(problem).evidence == {
        "rule": "sequence", "rank": 1, "objective": "peak-memory", "bound": 25,
    }  # fmt: skip


@pytest.mark.parametrize(("most", "first"), [(20, 1), (15, 1), (14, 2), (13, 3), (0, 4)])
def test_a_ceiling_on_the_makespan_admits_forwards(most: int, first: int) -> None:
    """Rank 0 of two: work 4 * 3, turn 1 + 1 + 2, so 16 - k ticks with k forwards before the first backward."""
    problem = Problem.chain(ranks=2, microbatches=4, forward=1, backward=2, activation=[5, 1], static=7)
    bound = next(iter(admission_bounds(Costs(problem), ("makespan", most))))
    assert bound.value == 7 + 5 * first
    assert bound.evidence["stage"] == 0
