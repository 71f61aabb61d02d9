"""The bound from idle time: the figures that it reaches, and the same number from both derivations."""

from __future__ import annotations

import random
from typing import Any

import pytest

from schedverify.core.problem import Problem
from schedverify.optimizer.bounds.costs import Costs
from schedverify.optimizer.bounds.formulas import idle_bounds
from schedverify.verifier.certificates import proved_bound

UNIT, ZERO_BUBBLE = (1, 1, 1), (18, 18, 10)


def paper(ranks: int, microbatches: int, costs: tuple[int, int, int], **keys: Any) -> Problem:
    """Return equal stages with latency 1 and memory for as many activations as there are ranks."""
    forward, gradient, weight = costs
    memory = {"activation": 2, "weight_stash": 1, "capacity": 2 * ranks}
    return Problem.chain(
        ranks=ranks, microbatches=microbatches, form="split", latency=1,
        forward=forward, backward_input=gradient, backward_weight=weight, **memory | keys,
    )  # fmt: skip


def best(problem: Problem, objective: str = "makespan") -> int:
    return max(bound.value for bound in idle_bounds(Costs(problem), objective))


@pytest.mark.parametrize(
    ("ranks", "microbatches", "costs", "optimum"),
    [
        (16, 32, UNIT, 171), (8, 16, ZERO_BUBBLE, 946), (8, 32, ZERO_BUBBLE, 1682), (8, 64, ZERO_BUBBLE, 3154),
        (16, 32, ZERO_BUBBLE, 1922),
    ],
)  # fmt: skip
def test_it_is_the_optimum_of_the_zero_bubble_shapes(
    ranks: int, microbatches: int, costs: tuple[int, int, int], optimum: int
) -> None:
    """These optima were proved by two solvers; see specs/problems."""
    assert best(paper(ranks, microbatches, costs)) == optimum


def test_it_counts_both_halves_on_a_fused_pipeline() -> None:
    """4 ranks, forward 1, backward 3, two in flight: M (F + B) + turn - k F + turn - F - (k - 1) B, turn = 4 + 9."""
    problem = Problem.chain(ranks=4, microbatches=8, forward=1, backward=3, in_flight=2)
    assert best(problem) == 8 * 4 + (13 - 2) + (13 - 1 - 3)


def test_the_first_half_does_not_count_where_every_forward_may_come_first() -> None:
    problem = Problem.chain(ranks=4, microbatches=2, forward=1, backward=3, in_flight=2)
    assert best(problem) == 8 + (13 - 2) < 8 + (13 - 2) + (13 - 1 - 3)


def test_what_follows_the_last_forward_is_that_of_a_stage_that_leads_to_no_other_of_the_rank() -> None:
    """Stages 0 and 2 on rank 0, stage 1 feeds 2 from rank 1; three in flight, of at most 2 + 2 + 1 ticks of backward.

    The last F of rank 0 is of stage 2. Behind it come its B, 2 ticks, and that of stage 1, 5; work is 4 + 6.
    """
    problem = Problem.of({
        "ranks": 2, "microbatches": 2, "stages": 3, "placement": [0, 1, 0], "edges": [[0, 2], [1, 2]],
        "costs": {"forward": 1, "backward": [1, 5, 2]}, "limits": {"in_flight": [3, 9]},
    })  # fmt: skip
    assert proved_bound(problem, "makespan", {"rule": "idle", "rank": 0}) == 10 + 7 - 5
    assert next(idle_bounds(Costs(problem), "makespan")).value == 10 + 7 - 5


def tight(seed: int) -> Problem:
    """Return uneven stages, one to three on a rank, with limits that a few micro-batches reach."""
    rng = random.Random(seed)
    virtual = rng.randint(1, 3)
    ranks = rng.randint(1, 4)
    stages = ranks * virtual
    costs = {
        name: [rng.randint(0, 9) for _ in range(stages)]
        for name in ("forward", "backward_input", "backward_weight", "backward")
    }
    limits: dict[str, Any] = {"capacity": rng.randint(6, 9) * virtual, "static": rng.randint(0, 2)}
    limits |= {"in_flight": rng.randint(virtual, 3 * virtual)} if rng.random() < 0.5 else {}
    limits |= {"in_flight_stage": rng.randint(1, 4)} if rng.random() < 0.3 else {}
    limits |= {"recompute": [rng.random() < 0.5 for _ in range(stages)], "boundary": 1} if rng.random() < 0.3 else {}
    return Problem.chain(
        ranks=ranks, microbatches=rng.randint(1, 12), virtual=virtual, placement=rng.choice(["loop", "v"]),
        form=rng.choice(["fused", "split"]), latency=rng.randint(0, 3), activation=rng.randint(2, 5),
        weight_stash=rng.randint(0, 2), **costs, **limits,
    )  # fmt: skip


def test_both_derivations_come_to_the_same_number() -> None:
    beyond = 0
    for seed in range(400):
        problem = tight(seed)
        costs = Costs(problem)
        for objective in ("makespan", "span"):
            for bound in idle_bounds(costs, objective):
                story = (seed, bound)
                assert proved_bound(problem, objective, bound.evidence) == bound.value, story
                beyond += bound.value > proved_bound(problem, objective, bound.evidence | {"rule": "load"})
    assert beyond > 400
