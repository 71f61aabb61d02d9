"""Pumpkin beside CP-SAT: the same optima on small random problems, and never a process that outlives the question."""

from __future__ import annotations

import importlib.util
import io
import itertools
import json
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from schedverify.core.errors import SchedverifyError
from schedverify.core.problem import Problem
from schedverify.optimizer.model.rules import add_constraints
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.orders import rows_of, schedule_of
from schedverify.optimizer.solvers import pumpkin, pumpkin_child
from schedverify.optimizer.solvers.cp_sat import SolverOutcome, SolverSettings, search
from schedverify.optimizer.solvers.plain_model import NotPlainError, plain_model
from schedverify.optimizer.tasks import OpKey, Tasks
from schedverify.planner.plans import plan_of
from schedverify.simulator.engine import simulate

needs_pumpkin = pytest.mark.skipif(
    importlib.util.find_spec("pumpkin_solver") is None, reason="the extra pumpkin is not installed"
)
HARD: dict[str, Any] = {"ranks": 8, "microbatches": 64, "form": "split", "activation": 2, "weight_stash": 1}

HARD_COSTS: dict[str, Any] = {
    "forward": 18, "backward_input": 17, "backward_weight": 10, "latency": 1, "capacity": 16,
}  # fmt: skip


def random_problem(seed: int) -> Problem:
    """Return a small problem of a kind that Pumpkin takes: limits as precedences, or none."""
    rng = random.Random(seed)
    virtual = rng.choice([1, 1, 2])
    ranks, microbatches = rng.randint(1, 4 // virtual), rng.randint(1, 5 // virtual)
    keys: dict[str, Any] = {"latency": rng.choice([0, 0, 1, 3]), "form": rng.choice(["fused", "split", "inference"])}
    for name in ("forward", "backward_input", "backward_weight"):
        keys[name] = [rng.randint(0, 4) for _ in range(ranks * virtual)]
    if keys["form"] == "inference":
        del keys["backward_input"], keys["backward_weight"]
    elif virtual == 1:
        keys |= {"activation": 2, "weight_stash": rng.choice([0, 1]), "capacity": rng.randint(2, 2 * ranks)}
        keys |= {"in_flight": rng.randint(1, 3)} if rng.random() < 0.4 else {}
    return Problem.chain(ranks=ranks, microbatches=microbatches, virtual=virtual, **keys)


class Told:
    """What a search tells on its way."""

    def __init__(self, stopped: bool = False) -> None:
        self.starts: list[dict[OpKey, int]] = []
        self.bounds: list[int] = []
        self.settings = SolverSettings(0, 1, lambda: stopped, self.starts.append, self.bounds.append)


def ask(tasks: Tasks, best: int, bound: int = 0, seconds: float = 60, told: Told | None = None) -> SolverOutcome | None:
    return pumpkin.prove(tasks, lambda: (best, bound), seconds, (told or Told()).settings)


def by_cp_sat(tasks: Tasks) -> int:
    model = OrderModel(tasks, horizon=tasks.horizon)
    add_constraints(model)
    outcome = search(model, 60, Told().settings)
    assert outcome.closed
    assert outcome.bound is not None
    return outcome.bound


@needs_pumpkin
@pytest.mark.parametrize("seed", range(20))
def test_it_proves_what_cp_sat_proves(seed: int) -> None:
    problem = random_problem(seed)
    tasks, told = Tasks(problem), Told()
    truth, loose = by_cp_sat(tasks), tasks.horizon // tasks.subticks + 1
    outcome = ask(tasks, loose, told=told)
    assert outcome == SolverOutcome(closed=True, found=True, bound=truth), problem
    schedule = schedule_of(rows_of(problem, told.starts[-1]))
    assert plan_of(schedule, problem).value == simulate(schedule, problem).makespan == truth * tasks.unit
    assert told.bounds == sorted(told.bounds)
    assert ask(tasks, truth) == SolverOutcome(True, False, truth)


@needs_pumpkin
@pytest.mark.parametrize("seed", range(20, 24))
def test_it_proves_a_span(seed: int) -> None:
    problem = random_problem(seed)
    tasks, told = Tasks(problem, "span"), Told()
    truth = by_cp_sat(tasks)
    outcome = pumpkin.prove(tasks, lambda: (tasks.horizon // tasks.subticks + 1, 0), 60, told.settings)
    assert outcome == SolverOutcome(closed=True, found=True, bound=truth)
    schedule = schedule_of(rows_of(problem, told.starts[-1]))
    assert simulate(schedule, problem).span == truth


@needs_pumpkin
def test_it_ends_with_its_time_and_with_the_wish_to_stop(monkeypatch: pytest.MonkeyPatch) -> None:
    processes = []

    class Watched(subprocess.Popen[str]):
        def __init__(self, *arguments: Any, **keywords: Any) -> None:
            super().__init__(*arguments, **keywords)
            processes.append(self)

    monkeypatch.setattr(subprocess, "Popen", Watched)
    tasks = Tasks(Problem.chain(**HARD, **HARD_COSTS))
    assert ask(tasks, 3000, 2950, seconds=1) == SolverOutcome(False, False, 2950)
    assert ask(tasks, 3000, 2950, told=Told(stopped=True)) == SolverOutcome(False, False, 2950)
    told, calls = Told(), itertools.count()
    settings = SolverSettings(0, 1, lambda: next(calls) == 20, told.starts.append, told.bounds.append)
    assert pumpkin.prove(tasks, lambda: (3000, 2950), 600, settings) == SolverOutcome(False, False, 2950)
    assert processes
    assert all(process.poll() is not None for process in processes)


@needs_pumpkin
@pytest.mark.parametrize(("news", "closed"), [((2990, 2990), True), ((3000, 3000), True), ((2998, 2950), False)])
def test_a_question_that_others_settle_is_dropped(news: tuple[int, int], closed: bool) -> None:
    tasks, told = Tasks(Problem.chain(**HARD, **HARD_COSTS)), Told()
    asked = iter([(3000, 2950)] * 5)
    outcome = pumpkin.prove(tasks, lambda: next(asked, news), 600 if closed else 3, told.settings)
    assert outcome == SolverOutcome(closed, False, news[1])
    assert (told.starts, told.bounds) == ([], [])


@needs_pumpkin
@pytest.mark.parametrize(
    "keys",
    [
        {"virtual": 2, "capacity": 3, "recompute": True, "boundary": 1},
        {"form": "split", "backward": 1, "backward_input": 1, "backward_weight": 1},
        {"forward": 1 << 28, "backward": 3},
    ],
    ids=["bytes of several recomputing stages", "mixed", "large numbers"],
)
def test_what_it_cannot_take_it_leaves(keys: dict[str, Any]) -> None:
    tasks = Tasks(Problem.chain(ranks=2, microbatches=3, **keys))
    assert ask(tasks, tasks.horizon // tasks.subticks) is None


@needs_pumpkin
@pytest.mark.parametrize(("most", "verdict"), [(5, "Satisfiable"), (4, "Unsatisfiable")])
def test_the_child_answers_one_question(
    most: int, verdict: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Steps of 2 and 3 ticks exclude each other; the second is to end by ``most``, behind the first if b is 0."""
    rows = [(((1, 1), (0, -1)), -3, 2), (((0, 1), (1, -1)), -2, -3), (((2, 1),), 0, None)]
    question = {
        "domains": [(0, most - 2), (0, most - 3), (0, 1)], "rows": rows, "exclusive": [[(0, 0, 2), (1, 0, 3)]],
        "seconds": 60, "seed": 0,
    }  # fmt: skip
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps(question)))
    pumpkin_child.main()
    answer = json.loads(capsys.readouterr().out)
    assert answer == {"verdict": verdict, "values": [0, 2, 0] if verdict == "Satisfiable" else []}


def test_without_it_nothing_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert ask(Tasks(Problem.chain(ranks=1, microbatches=1)), 9) is None


@pytest.mark.skipif(sys.platform == "win32", reason="the stand-in for the solver is a script")
def test_a_solver_that_breaks_down_is_told(tmp_path: Path) -> None:
    broken = tmp_path / "broken.py"
    broken.write_text("raise SystemExit('no such thing')\n")
    tasks = Tasks(Problem.chain(ranks=1, microbatches=1))
    with pytest.raises(SchedverifyError, match="no such thing"):
        pumpkin.prove(tasks, lambda: (9, 0), 60, Told().settings, program=broken)


def test_the_plain_form_says_all_of_a_model_or_refuses() -> None:
    from ortools.sat.python import cp_model

    model = cp_model.CpModel()
    x, y, b = model.new_int_var(0, 9, "x"), model.new_int_var(1, 5, "y"), model.new_bool_var("b")
    model.add(2 * x - y >= 3)
    model.add(x == 4).only_enforce_if(~b)
    model.add(x <= 9)
    c = model.new_bool_var("c")
    model.add_implication(b, ~c)
    model.add_bool_or(b, ~c)
    model.add_no_overlap([model.new_fixed_size_interval_var(x + 1, 2, ""), model.new_fixed_size_interval_var(y, 3, "")])
    plain = plain_model(model)
    assert plain.domains == [(0, 9), (1, 5), (0, 1), (0, 1)]
    assert set(plain.rows) == {
        (((0, -2), (1, 1)), -3, None), (((0, 1),), 4, -3), (((0, -1),), -4, -3),
        (((3, 1),), 0, 2), (((2, -1), (3, 1)), 0, None),
    }  # fmt: skip
    assert plain.exclusive == [[(0, 1, 2), (1, 0, 3)]]
    for spoil in (
        lambda m: m.add_exactly_one(b, c),
        lambda m: m.add(x <= 3).only_enforce_if(b, ~b),
        lambda m: m.add(x <= 3).only_enforce_if(m.new_constant(1)),
        lambda m: m.new_int_var_from_domain(cp_model.Domain.from_values([1, 3]), ""),
        lambda m: m.new_int_var(0, 1 << 40, ""),
        lambda m: m.add((1 << 40) * x <= 1 << 41),
        lambda m: m.add_no_overlap([m.new_optional_fixed_size_interval_var(x, 2, b, "")]),
        lambda m: m.add_no_overlap([m.new_interval_var(x, y, m.new_int_var(0, 14, ""), "")]),
        lambda m: m.add_cumulative([m.new_fixed_size_interval_var(x, 2, "")], [1], 1),
    ):
        spoiled = model.clone()
        spoil(spoiled)
        with pytest.raises(NotPlainError):
            plain_model(spoiled)
