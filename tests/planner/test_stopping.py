"""A wish to stop that comes at any moment: the answer so far is valid, and little more is done. Moments are counted."""

from __future__ import annotations

import threading

import pytest

import schedverify as sv
from schedverify.core.errors import UndecidedError
from schedverify.core.model import Layer, Model
from schedverify.optimizer import Progress
from schedverify.planner.explanation import explain

NEVER = 1 << 60


class StopAtAsk(threading.Event):
    """A wish to stop that is there from the ``number``-th time on that somebody asks for it."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number, self.asks = number, 0

    def is_set(self) -> bool:
        self.asks += 1
        return self.asks >= self.number or super().is_set()

    @property
    def late(self) -> int:
        """How often it was asked after it was there."""
        return max(0, self.asks - self.number)


def moments(asks: int, count: int = 12) -> list[int]:
    """Return moments over all of so many asks, the first ones among them."""
    return sorted({1, 2, 3, *(1 + asks * k // count for k in range(count))})


HARD = sv.Problem.of(
    {
        "version": 1, "ranks": 3, "microbatches": 6, "form": "split", "virtual": 2, "placement": "v",
        "costs": {"forward": 5, "backward_input": 4, "backward_weight": 3}, "links": {"latency": 1},
        "memory": {"weight_stash": 1, "activation": 2, "capacity": 14},
    }
)  # fmt: skip


@pytest.mark.parametrize(("objective", "then"), [("makespan", None), ("span", None), ("makespan", "peak-memory")])
def test_optimize_stopped_at_any_moment_gives_a_valid_plan_or_says_that_it_has_none(
    objective: str, then: str | None
) -> None:
    whole = StopAtAsk(NEVER)
    sv.optimize(HARD, objective=objective, then=then, time_limit=1.5, workers=1, stop=whole)
    assert whole.asks > 100
    found = set()
    for number in moments(whole.asks):
        stop = StopAtAsk(number)
        plan = sv.optimize(HARD, objective=objective, then=then, time_limit=600, workers=1, stop=stop)
        found.add(plan.schedule is not None)
        assert stop.late < 300, number
        if plan.schedule is not None:
            assert not sv.verify(plan).violations
        else:
            assert "the search was stopped" in plan.reason
    assert True in found


def test_an_answer_that_is_known_stays() -> None:
    """From the moment on at which a first schedule is known, every later stop has one."""
    whole = StopAtAsk(NEVER)
    sv.optimize(HARD, time_limit=1.5, workers=1, stop=whole)
    has = [
        sv.optimize(HARD, time_limit=600, workers=1, stop=StopAtAsk(number)).schedule is not None
        for number in moments(whole.asks)
    ]
    assert has == sorted(has)


@pytest.mark.parametrize("virtual", [1, 2])
def test_joint_search_stopped_at_any_moment_gives_a_valid_plan_or_says_that_it_has_none(virtual: int) -> None:
    model = Model("m", tuple(Layer(f"l{i}", 3 + i % 4, 5 + i % 3, output=4, activation=2) for i in range(9)))
    shape = {"ranks": 2, "microbatches": 5, "virtual": virtual, "workers": 1}
    whole = StopAtAsk(NEVER)
    sv.partition_jointly(model, **shape, time_limit=3, stop=whole)
    found = set()
    for number in moments(whole.asks, 8):
        stop = StopAtAsk(number)
        try:
            joint = sv.partition_jointly(model, **shape, time_limit=600, stop=stop)
        except UndecidedError:
            found.add(False)
        else:
            found.add(joint.plan.schedule is not None)
            assert joint.plan.schedule is None or not sv.verify(joint.plan).violations
        assert stop.late < 600, number
    assert True in found


@pytest.mark.parametrize("virtual", [1, 2])
def test_a_cut_that_is_stopped_is_one_that_fits(virtual: int) -> None:
    model = Model("m", tuple(Layer(f"l{i}", 3 + i % 4, 5 + i % 3, output=4) for i in range(12)))
    whole = StopAtAsk(NEVER)
    best = sv.partition(model, ranks=3, virtual=virtual, stop=whole)
    for number in moments(whole.asks, 6):
        found = sv.partition(model, ranks=3, virtual=virtual, stop=StopAtAsk(number))
        assert sorted(layer for layers in found.partition.layers for layer in layers) == list(range(12))
        assert found.partition.bottleneck >= best.partition.bottleneck


def test_an_explanation_that_is_stopped_says_what_it_did_not_look_for() -> None:
    plan = sv.optimize(sv.Problem.chain(ranks=3, microbatches=4, forward=2, backward=3), time_limit=30)
    whole = explain(plan)
    assert whole.gains
    assert whole.critical_path
    early = explain(plan, stop=StopAtAsk(1))
    assert not early.gains
    assert any("was not looked for: the search was stopped" in remark for remark in early.remarks)
    assert early.bound == whole.bound


def test_no_time_is_enough_for_what_takes_none() -> None:
    """Without any time, a plan still has a first schedule and its bound."""
    plan = sv.optimize(HARD, time_limit=0, workers=1)
    assert plan.schedule is not None
    assert plan.bound


def test_progress_names_what_runs() -> None:
    told: list[str] = []
    sv.optimize(HARD, time_limit=1, workers=1, progress=lambda now: told.append(now.part))
    parts = list(dict.fromkeys(told))
    assert parts[:3] == ["families", "bounds", "known schedules"]
    assert parts[-1] == "lowering and verifying"


def test_an_interrupt_in_the_search_keeps_the_best() -> None:
    def interrupt(now: Progress) -> None:
        if now.part == "list schedules" and now.value is not None:
            raise KeyboardInterrupt

    plan = sv.optimize(HARD, time_limit=600, workers=1, progress=interrupt)
    assert plan.schedule is not None
    assert not sv.verify(plan).violations
