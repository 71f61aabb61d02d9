"""The list scheduler: the orders that its policies give, by hand."""

from __future__ import annotations

from typing import Any

import pytest

from schedverify.core.problem import Problem
from schedverify.optimizer.heuristics.greedy import GreedyPolicy, list_schedule, policies
from schedverify.optimizer.orders import measure, schedule_of
from schedverify.optimizer.tasks import Tasks

PAIR: dict[str, Any] = {"ranks": 2, "microbatches": 3, "forward": 1, "backward": 2}
SPLIT: dict[str, Any] = {"ranks": 1, "microbatches": 2, "form": "split"}


@pytest.mark.parametrize(
    ("keys", "policy", "order"),
    [
        (PAIR, GreedyPolicy(), "0F0 0F1 0F2 0B0 0B1 0B2\n1F0 1B0 1F1 1B1 1F2 1B2"),
        (PAIR, GreedyPolicy(backward_first=False), "0F0 0F1 0F2 0B0 0B1 0B2\n1F0 1F1 1F2 1B0 1B1 1B2"),
        (PAIR | {"in_flight": [2, 3]}, GreedyPolicy(), "0F0 0F1 0B0 0F2 0B1 0B2\n1F0 1B0 1F1 1B1 1F2 1B2"),
        (PAIR | {"in_flight": 1}, GreedyPolicy(), "0F0 0B0 0F1 0B1 0F2 0B2\n1F0 1B0 1F1 1B1 1F2 1B2"),
        (PAIR | {"in_flight_stage": [1, 3]}, GreedyPolicy(), "0F0 0B0 0F1 0B1 0F2 0B2\n1F0 1B0 1F1 1B1 1F2 1B2"),
        (PAIR | {"activation": 2, "capacity": [3, 6]}, GreedyPolicy(), "0F0 0B0 0F1 0B1 0F2 0B2\n"
                                                                     "1F0 1B0 1F1 1B1 1F2 1B2"),
        (SPLIT, GreedyPolicy(patience=0), "0F0 0I0 0F1 0I1 0W0 0W1"),
        (SPLIT, GreedyPolicy(patience=1), "0F0 0I0 0W0 0F1 0I1 0W1"),
        (SPLIT | {"backward": 1}, GreedyPolicy(), "0F0 0B0 0F1 0B1"),
        (SPLIT | {"backward": 1}, GreedyPolicy(patience=0, fused=False), "0F0 0I0 0F1 0I1 0W0 0W1"),
        (
            {"ranks": 1, "microbatches": 2, "virtual": 2, "form": "inference"}, GreedyPolicy(), "0F0 1F0 0F1 1F1",
        ),
        (
            {"ranks": 1, "microbatches": 2, "virtual": 2, "form": "inference"}, GreedyPolicy(deep_first=False),
            "0F0 1F0 0F1 1F1",
        ),
        ({"ranks": 1, "microbatches": 2, "slices": 2}, GreedyPolicy(), "0F0 0F1 0B1 0B0"),
    ],
)  # fmt: skip
def test_the_order_of_a_policy(keys: dict[str, Any], policy: GreedyPolicy, order: str) -> None:
    rows = list_schedule(Tasks(Problem.chain(**keys)), policy)
    assert rows is not None
    assert "\n".join(" ".join(row) for row in schedule_of(rows).strings()) == order


def test_policies_that_cannot_differ_are_left_out() -> None:
    assert list(policies(Tasks(Problem.chain(ranks=2, microbatches=1, form="inference")))) == [
        GreedyPolicy(True, True, 0.0, True)
    ]
    several = Problem.chain(ranks=2, microbatches=1, virtual=2, form="split", backward=1)
    assert len({*policies(Tasks(several))}) == 2 * 2 * 3 * 2


def test_a_pass_that_is_stopped_or_stands_still_gives_nothing() -> None:
    tasks = Tasks(Problem.chain(**PAIR))
    assert list_schedule(tasks, GreedyPolicy(), lambda: True) is None
    # Both arms stand on rank 0 and wait for stage 3 on rank 1, so 6 bytes must be held there.
    branched: dict[str, Any] = {
        "ranks": 2, "microbatches": 2, "stages": 4, "placement": [0, 0, 0, 1],
        "edges": [[0, 1], [0, 2], [1, 3], [2, 3]], "costs": {"forward": 1, "backward": 1},
    }  # fmt: skip
    for capacity, finds in ((6, True), (5, False)):
        problem = Problem.of(branched | {"memory": {"activation": [1, 2, 3, 1], "capacity": capacity}})
        assert (list_schedule(Tasks(problem), GreedyPolicy()) is not None) is finds


def test_room_is_left_for_a_backward_that_recomputes() -> None:
    """Each rank holds 4 bytes and a boundary takes 1, an activation 3: two in flight at most while a B runs."""
    keys: dict[str, Any] = {"recompute": True, "activation": 3, "boundary": 1, "capacity": 4}
    tasks = Tasks(Problem.chain(**PAIR, **keys))
    rows = list_schedule(tasks, GreedyPolicy())
    assert rows is not None
    first = [kind for kind, _, _ in rows[0]]
    assert first == ["F", "F", "B", "F", "B", "B"]
    assert measure(tasks, rows) > 12
