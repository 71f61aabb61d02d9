"""Where receives stand decides what a rank with one queue waits for; the demonstration in benchmarks/ shows it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType

import pytest

from schedverify.core.discipline import Discipline
from schedverify.generators import generate
from schedverify.simulator.delay_reasons import delays
from schedverify.simulator.engine import simulate

BENCHMARKS = Path(__file__).parents[2] / "benchmarks"


@pytest.fixture
def demonstration(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(BENCHMARKS)
    return importlib.import_module("head_of_line")


def makespans(demonstration: ModuleType, discipline: Discipline) -> list[int]:
    problem = demonstration.the_problem()
    orders = demonstration.lowerings(problem, discipline).values()
    return [simulate(lowered, problem, discipline=discipline).makespan for lowered in orders]


def test_under_rank_receives_in_front_cost_half_the_time_and_the_best_order_nothing(demonstration: ModuleType) -> None:
    front, default, best = makespans(demonstration, Discipline.RANK)
    problem = demonstration.the_problem()
    alone = simulate(generate("interleaved-1f1b", problem), problem).makespan
    assert front > 1.5 * default
    assert best == default == alone


def test_under_block_each_order_is_better_than_the_one_before(demonstration: ModuleType) -> None:
    front, default, best = makespans(demonstration, Discipline.BLOCK)
    assert front > default > best


def test_what_is_held_up_stands_behind_receives(demonstration: ModuleType) -> None:
    problem = demonstration.the_problem()
    lowered = demonstration.lowerings(problem, Discipline.RANK)["receives in front"]
    told = [delay.text for delay in delays(simulate(lowered, problem, discipline="rank")) if delay.held_up]
    assert "1F1 waits on 1RECV_F1, whose 0SEND_F1 stands behind 8RECV_F0 in rank 0's queue" in told


def test_pytorch_places_its_receives_so(demonstration: ModuleType) -> None:
    schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
    problem = demonstration.the_problem()
    order = generate("interleaved-1f1b", problem)
    actions = {rank: [schedules._Action.from_str(step) for step in row] for rank, row in enumerate(order.strings())}
    theirs = schedules._add_send_recv(actions, lambda stage: stage % 8, 16)
    ours = demonstration.in_front(order, problem).strings()
    assert [[str(action) for action in theirs[rank]] for rank in range(8)] == ours
