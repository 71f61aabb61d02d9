"""CP-SAT beside the caller's thread: how a search ends, what it reports, and that one function makes every solver."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest
from ortools.sat.python import cp_model

import schedverify
from schedverify.core.errors import SchedverifyError
from schedverify.core.problem import Problem
from schedverify.optimizer.model.rules import add_constraints
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.solvers import cp_sat
from schedverify.optimizer.solvers.cp_sat import SolverOutcome, SolverSettings, new_solver, search
from schedverify.optimizer.tasks import OpKey, Tasks

PACKAGE = Path(schedverify.__file__).parent
MAKER = "optimizer/solvers/cp_sat.py"


def model(microbatches: int = 3, horizon: int | None = None) -> OrderModel:
    tasks = Tasks(Problem.chain(ranks=2, microbatches=microbatches, forward=1, backward=2))
    made = OrderModel(tasks, horizon=tasks.horizon if horizon is None else horizon)
    add_constraints(made)
    return made


def test_one_function_makes_every_solver() -> None:
    made = {
        path.relative_to(PACKAGE).as_posix(): path.read_text(encoding="utf-8").count("CpSolver(")
        for path in PACKAGE.rglob("*.py")
    }
    assert made[MAKER] == 1
    assert {name for name, count in made.items() if count} == {MAKER}


def test_a_solver_has_the_means_that_it_is_given() -> None:
    parameters = new_solver(2.5, 3, random_seed=7).parameters
    assert (parameters.max_time_in_seconds, parameters.num_workers, parameters.random_seed) == (2.5, 3, 7)
    assert not parameters.catch_sigint_signal


def test_better_starts_and_higher_bounds_are_reported_as_they_come() -> None:
    """Two ranks, 3 micro-batches of 1 + 2 ticks: rank 1 is busy for 9, behind 1 tick and before 2."""
    ends: list[int] = []
    bounds: list[int] = []

    def note(starts: dict[OpKey, int]) -> None:
        ends.append(max(starts[op] + (1 if op[0] == "F" else 2) for op in starts))

    outcome = search(model(), 60, SolverSettings(0, 1, lambda: False, note, bounds.append))
    assert outcome == SolverOutcome(closed=True, found=True, bound=12)
    assert ends == sorted(ends, reverse=True)
    assert ends[-1] == 12
    assert bounds == sorted(bounds)
    assert all(bound <= 12 for bound in bounds)


def test_a_model_without_a_solution_is_closed() -> None:
    outcome = search(model(horizon=11), 60, SolverSettings(0, 1, lambda: False, lambda _: None, lambda _: None))
    assert outcome == SolverOutcome(closed=True, found=False, bound=None)


def test_a_search_that_is_stopped_is_open() -> None:
    outcome = search(model(40), 600, SolverSettings(0, 1, lambda: True, lambda _: None, lambda _: None))
    assert not outcome.closed


def test_a_failure_of_the_caller_ends_the_search() -> None:
    def fail(_: dict[OpKey, int]) -> None:
        raise ValueError("on purpose")

    with pytest.raises(ValueError, match="on purpose"):
        search(model(), 600, SolverSettings(0, 1, lambda: False, fail, lambda _: None))


def test_a_model_that_the_solver_does_not_take_is_reported() -> None:
    broken = model()
    domain = broken.cp.proto.variables[0].domain
    domain[0], domain[1] = 5, 1
    with pytest.raises(SchedverifyError, match=r"did not take the model \(MODEL_INVALID\)"):
        search(broken, 60, SolverSettings(0, 1, lambda: False, lambda _: None, lambda _: None))


def test_a_solver_that_does_not_hear_is_left_to_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    """As one that makes a large model ready: nothing is read off it, and nobody waits."""
    ends = threading.Event()
    monkeypatch.setattr(cp_sat, "PATIENCE", 0.0)

    class Deaf(cp_model.CpSolver):
        def solve(self, *_: object) -> object:
            ends.wait(120)
            return cp_model.UNKNOWN

    monkeypatch.setattr(cp_model, "CpSolver", Deaf)
    stopped = SolverSettings(0, 1, lambda: True, lambda _: None, lambda _: None)
    try:
        assert search(model(), 600, stopped) == SolverOutcome(closed=False, found=False, bound=None)
        assert cp_sat.solve(cp_sat.new_solver(600, 1), model().cp, lambda: True) == cp_sat.ABANDONED
    finally:
        ends.set()


def test_only_that_module_solves() -> None:
    """Elsewhere a solver would be called in the caller's thread, which then hears no signal."""
    pattern = re.compile(r"\bsolver\.solve\(")
    found = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if pattern.search(path.read_text("utf-8"))
    }
    assert found == {MAKER}
