"""Runs CP-SAT beside the caller's thread, so that a signal, an event or the clock can end it and keep the best."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from schedverify.core.errors import SchedverifyError
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.tasks import OpKey

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

News = queue.SimpleQueue[dict[OpKey, int] | int | str]
"""What the solver's thread reports: starts of a solution, a bound in units, at last the name of its status."""

_POLL = 0.1
"""Seconds between two looks at the clock and the event."""


@dataclass(frozen=True)
class SolverOutcome:
    """How a search over one model ended.

    Attributes
    ----------
    closed
        Whether the whole space was searched: the last solution is the best, or there is none.
    found
        Whether there was a solution.
    bound
        What no solution of the model can go below, in units; None where nothing is known or there is no solution.
    """

    closed: bool
    found: bool
    bound: int | None


@dataclass(frozen=True)
class SolverSettings:
    """How to search: seed, threads, the event that ends it, and whom to tell."""

    seed: int
    workers: int
    stopped: Callable[[], bool]
    on_starts: Callable[[dict[OpKey, int]], None]
    on_bound: Callable[[int], None]


def search(model: OrderModel, seconds: float, settings: SolverSettings) -> SolverOutcome:
    """Search a model until it is closed, the time is over, or the search is stopped.

    ``on_starts`` and ``on_bound`` are called in the caller's thread. An exception there, such as KeyboardInterrupt,
    ends the search before it is passed on.
    """
    news: News = queue.SimpleQueue()
    solver = _solver(seconds, settings)
    solver.best_bound_callback = lambda bound: news.put(_whole(bound))
    thread = threading.Thread(target=_solve, args=(solver, model, news), name="schedverify-solver", daemon=True)
    thread.start()
    try:
        status = _listen(news, solver, settings)
    finally:
        while thread.is_alive():
            solver.stop_search()
            thread.join(_POLL)
    return _outcome(status, solver)


def _solver(seconds: float, settings: SolverSettings) -> cp_model.CpSolver:
    """Return a solver with the parameters that were measured to pay on these models."""
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    parameters = solver.parameters
    parameters.max_time_in_seconds = max(seconds, 0.01)
    parameters.num_workers = settings.workers
    parameters.random_seed = settings.seed
    parameters.symmetry_level = 0
    parameters.cp_model_probing_level = 0
    parameters.catch_sigint_signal = False
    return solver


def _solve(solver: cp_model.CpSolver, model: OrderModel, news: News) -> None:
    from ortools.sat.python import cp_model

    class Callback(cp_model.CpSolverSolutionCallback):
        def on_solution_callback(self) -> None:
            news.put(model.read(self.value))

    status = "FAILED"
    try:
        status = str(solver.status_name(solver.solve(model.cp, Callback())))
    finally:
        news.put(status)


def _listen(news: News, solver: cp_model.CpSolver, settings: SolverSettings) -> str:
    """Pass on what the solver reports until it ends, and return the name of its status."""
    while True:
        if settings.stopped():
            solver.stop_search()
        try:
            item = news.get(timeout=_POLL)
        except queue.Empty:
            continue
        if isinstance(item, str):
            return item
        if isinstance(item, int):
            settings.on_bound(item)
        else:
            settings.on_starts(item)


def _outcome(status: str, solver: cp_model.CpSolver) -> SolverOutcome:
    if status not in ("OPTIMAL", "FEASIBLE", "INFEASIBLE", "UNKNOWN"):
        raise SchedverifyError(f"the solver did not take the model ({status}); please report this")
    bound = None if status == "INFEASIBLE" else _whole(solver.best_objective_bound)
    return SolverOutcome(status in ("OPTIMAL", "INFEASIBLE"), status in ("OPTIMAL", "FEASIBLE"), bound)


def _whole(bound: float) -> int:
    return math.ceil(bound - 1e-6)
