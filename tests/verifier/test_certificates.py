"""What the evidence of claimed bounds proves, worked out by hand, and what is said of evidence that proves nothing."""

from __future__ import annotations

from typing import Any

import pytest

from schedverify.core.problem import Problem
from schedverify.verifier.certificates import (
    EvidenceError,
    SilentEvidenceError,
    proved_bound,
    proved_in_flight,
    proved_peak,
)
from schedverify.verifier.certificates.overlaps import can_overlap


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


@pytest.mark.parametrize(("in_flight", "ticks"), [(1, 12), (None, 8)])
def test_idle_time_of_two_ranks_by_hand(in_flight: int | None, ticks: int) -> None:
    """Rank 0 works 6 ticks, and its first gradient comes back at 1 + 1 + 2 = 4.

    With one micro-batch in flight it runs one F until then and idles 3 ticks, and idles 3 again for the second;
    with both it runs two F and idles 2.
    """
    problem = Problem.chain(ranks=2, microbatches=2, forward=1, backward=2, in_flight=in_flight)
    assert proved_bound(problem, "makespan", {"rule": "idle", "rank": 0}) == ticks


@pytest.mark.parametrize(("recompute", "saved"), [(False, 3), (True, 1)])
def test_one_sequence_alone_waits_on_all_stages_that_it_came_through_by_hand(recompute: bool, saved: int) -> None:
    memory: dict[str, Any] = {"activation": 3, "boundary": 1, "recompute": recompute, "static": 10}
    problem = Problem.chain(ranks=1, microbatches=2, virtual=3, **memory)
    assert proved_peak(problem, "peak-memory", {"rule": "sequence", "rank": 0}) == 10 + 2 * saved + 3
    forwards = Problem.chain(ranks=1, microbatches=2, virtual=3, form="inference", activation=3)
    assert proved_peak(forwards, "peak-memory", {"rule": "sequence", "rank": 0}) == 3


@pytest.mark.parametrize(("slices", "counts"), [(1, (2, 1)), (2, (4, 2))])
def test_what_one_sequence_has_in_flight_by_hand(slices: int, counts: tuple[int, int]) -> None:
    """Stages 0 and 2 of the chain of three are on rank 0, so that both wait there when stage 2 turns back."""
    shape: dict[str, Any] = {"ranks": 2, "microbatches": 2, "stages": 3, "slices": slices}
    problem = Problem.chain(**shape)
    for rank, count in enumerate(counts):
        assert proved_in_flight(problem, {"rule": "in_flight", "rank": rank}) == count
    for stage in range(3):
        assert proved_in_flight(problem, {"rule": "in_flight_stage", "stage": stage}) == slices
    side_by_side = Problem.chain(**shape, edges=[[0, 1], [0, 2]])
    assert proved_in_flight(side_by_side, {"rule": "in_flight", "rank": 0}) == 2 * slices
    apart = Problem.chain(**shape, edges=[[0, 1]])
    assert proved_in_flight(apart, {"rule": "in_flight", "rank": 0}) == slices
    forwards = Problem.chain(**shape, form="inference")
    assert proved_in_flight(forwards, {"rule": "in_flight", "rank": 0}) == 1
    assert proved_in_flight(forwards, {"rule": "in_flight_stage", "stage": 0}) == 1
    for evidence, said in (
        ({"rule": "in_flight", "rank": 2}, "it names no rank of this problem"),
        ({"rule": "in_flight_stage", "stage": 3}, "it names no stage of this problem"),
        ({"rule": "load", "rank": 0}, "unknown rule 'load'; known: in_flight, in_flight_stage"),
        ({"rule": "in_flight", "rank": 0, "stage": 0}, "the rule in_flight has no 'stage'"),
    ):
        with pytest.raises(EvidenceError, match=f"^{said}$"):
            proved_in_flight(problem, evidence)


@pytest.mark.parametrize(("ceiling", "pairs"), [(32, 1), (28, 2), (27, 3), (24, 4), (1, 4)])
def test_forwards_must_fill_what_a_ceiling_leaves_no_time_to_idle_by_hand(ceiling: int, pairs: int) -> None:
    """Rank 0 works 4 (2 + 4) ticks, and its first gradient comes back at 2 + 2 + 4 = 8, which each F fills by 2."""
    problem = Problem.chain(ranks=2, microbatches=4, forward=2, backward=4, activation=5)
    evidence = {"rule": "memory", "stage": 0}
    assert proved_peak(problem, "peak-memory", evidence, ("makespan", ceiling)) == 5 * pairs
    assert proved_peak(problem, "peak-memory", evidence) == 5


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
    for backward, cost in ((0, 5), (0, 6), (1, 5)):
        problem = Problem.chain(**pair, overlapped=[{"forward": 0, "backward": backward, "cost": cost}])
        if (backward, cost) == (0, 5):
            with pytest.raises(SilentEvidenceError, match=said):
                proved_bound(problem, "span", {"rule": "load", "rank": 0})
        else:  # as dear as the sum, or on two ranks
            assert proved_bound(problem, "span", {"rule": "load", "rank": 0}) == 12
    forwards = Problem.chain(ranks=2, microbatches=2, form="inference")
    with pytest.raises(SilentEvidenceError, match=r"^without a backward nothing is held$"):
        proved_bound(forwards, "span", {"rule": "idle", "rank": 0})
    with pytest.raises(SilentEvidenceError, match=r"^stage 1 is not reached from stage 0 by a way that leads back$"):
        proved_bound(forwards, "span", {"rule": "pair", "stages": [0, 1]})
    with pytest.raises(EvidenceError, match=r"^no rule bounds the peak-memory$"):
        proved_bound(forwards, "peak-memory", {"rule": "load", "rank": 0})
    refused = r"^stage 0 is not alone on rank 0 in training, with a forward that takes time$"
    for problem in (forwards, Problem.chain(ranks=2, microbatches=2, virtual=2),
                    Problem.chain(ranks=2, microbatches=2, forward=[0, 1])):  # fmt: skip
        with pytest.raises(SilentEvidenceError, match=refused):
            proved_peak(problem, "peak-memory", {"rule": "memory", "stage": 0})


@pytest.mark.parametrize(
    ("keys", "forward", "backward", "can"),
    [
        ({"microbatches": 2}, 0, 0, True),
        ({"microbatches": 1}, 0, 0, False),
        ({"microbatches": 2}, 0, 1, False),
        ({"microbatches": 2, "form": "inference"}, 0, 0, False),
        ({"microbatches": 2, "form": "split"}, 0, 2, True),
        ({"microbatches": 2, "slices": 2}, 0, 2, False),
        ({"microbatches": 1}, 2, 0, False),
        ({"microbatches": 1, "edges": [[0, 1], [2, 3]]}, 0, 2, True),
        ({"microbatches": 1, "edges": [[0, 1], [2, 1]]}, 0, 2, False),
        ({"microbatches": 1, "edges": [[1, 0], [1, 2]]}, 0, 2, True),
        ({"microbatches": 2, "placement": [[0, 1, 0, 1]] * 2, "replicas": 2}, 0, 6, True),
        ({"microbatches": 2, "placement": [[0, 1, 0, 1]] * 2, "replicas": 2, "replica_of": [0, 0]}, 0, 6, False),
        ({"microbatches": 2, "placement": [[0, 1], 1, 1, 1]}, 0, 3, True),
    ],
)
def test_which_pairs_can_run_as_one_step(keys: dict[str, Any], forward: int, backward: int, can: bool) -> None:
    assert can_overlap(Problem.chain(ranks=2, stages=4, **keys), forward, backward) == can
