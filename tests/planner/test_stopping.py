"""A wish to stop that comes at any moment: the answer so far is valid, and little more is done. Moments are counted."""

from __future__ import annotations

import threading

import pytest

import schedverify as sv
from schedverify.core.ending import OverError
from schedverify.core.errors import UndecidedError
from schedverify.core.model import Layer, Model
from schedverify.generators import family
from schedverify.optimizer import Progress
from schedverify.optimizer.heuristics.greedy import GreedyPolicy, list_schedule
from schedverify.optimizer.heuristics.local_search import LocalSearch
from schedverify.optimizer.model.rules import add_constraints
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.orders import rows_of
from schedverify.optimizer.tasks import Tasks
from schedverify.partitioner.account import one_of_each
from schedverify.partitioner.chain_dp import cheapest_partition
from schedverify.partitioner.cuts import cuts_of
from schedverify.partitioner.requirements import requirements_of
from schedverify.planner.explanation import explain
from schedverify.planner.warm_starts import starts_of

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


class Asked:
    """A check that counts how often it is asked, and ends the work when it is asked for the ``last`` time."""

    def __init__(self, last: int = NEVER) -> None:
        self.last, self.asks = last, 0

    def __call__(self) -> None:
        self.asks += 1
        if self.asks >= self.last:
            raise OverError

    def stopped(self) -> bool:
        """Ask as those do that return what they have."""
        self.asks += 1
        return self.asks >= self.last


def make_model(problem: sv.Problem, check: Asked) -> None:
    tasks = Tasks(problem)
    add_constraints(OrderModel(tasks, horizon=tasks.horizon, check=check))


def start_walk(problem: sv.Problem, check: Asked) -> None:
    rows = rows_of(problem, starts_of(sv.simulate(sv.generate("1f1b", problem), problem)))
    LocalSearch(Tasks(problem), rows, check)


def schedule_by_list(problem: sv.Problem, check: Asked) -> None:
    if list_schedule(Tasks(problem), GreedyPolicy(), check.stopped) is None:
        raise OverError


def cut_graph(problem: sv.Problem, check: Asked) -> None:
    layers = tuple(Layer(f"l{i}", 1, 1) for i in range(problem.ranks * 3))
    model = Model("m", layers, edges=tuple((0, i) for i in range(1, len(layers))))
    placement = tuple(range(problem.ranks))
    cuts = cuts_of(model)
    requirements = requirements_of(model, cuts, placement, one_of_each(placement, problem.ranks))
    cheapest_partition(cuts, requirements, 1000, check)


PIECES = {
    "dispatch": (lambda problem, check: family("zb-1p").generate(problem, check), 3),
    "model": (make_model, 3),
    "walk": (start_walk, 2),
    "list": (schedule_by_list, 3),
    "graph": (lambda problem, check: sv.dependency_graph(problem, sv.generate("1f1b", problem), check=check), 2),
}
"""Long pieces of work by name, and how often each asks at least for every stage and micro-batch."""


@pytest.mark.parametrize("piece", PIECES)
def test_what_takes_long_asks_all_along_and_ends_where_it_is_told(piece: str) -> None:
    work, share = PIECES[piece]
    problem = sv.Problem.chain(ranks=4, microbatches=20, form="split", backward_input=1, backward_weight=1)
    whole = Asked()
    work(problem, whole)
    assert whole.asks >= share * 4 * 20
    for last in moments(whole.asks, 5):
        check = Asked(last)
        with pytest.raises(OverError):
            work(problem, check)
        assert check.asks == last


def test_a_cut_of_a_graph_asks_for_every_stage() -> None:
    problem, whole = sv.Problem.chain(ranks=4, microbatches=1), Asked()
    cut_graph(problem, whole)
    assert whole.asks >= 4
    with pytest.raises(OverError):
        cut_graph(problem, Asked(2))


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
