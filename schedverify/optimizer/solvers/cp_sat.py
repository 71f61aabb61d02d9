"""Runs CP-SAT beside the caller's thread, so that a signal, an event or the clock can end it and keep the best."""

from __future__ import annotations

import math
import queue
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Final

from schedverify.core.errors import SchedverifyError
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.tasks import OpKey

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

News = queue.SimpleQueue[dict[OpKey, int] | int | str]
"""What the solver's thread reports: starts of a solution, a bound in units, at last the name of its status."""

_POLL: Final = 0.1
"""Seconds between two looks at the clock and the event."""
_LEAST_SECONDS: Final = 0.01
_ON_ORDERS: Final = {"symmetry_level": 0, "cp_model_probing_level": 0}
"""What was measured to pay on models of orders."""
PATIENCE: Final = 1.0
"""Seconds for which a solver is waited for that was told to stop."""
ABANDONED: Final = "ABANDONED"
"""The status of a solver that did not end in that time."""


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
    """How to search.

    Attributes
    ----------
    seed, workers
        The solver's random seed and its threads.
    stopped
        Called ten times a second; says whether to end.
    on_starts, on_bound
        Called with the scaled starts of each better solution, and with each higher bound in units.
    """

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
    solver = new_solver(seconds, settings.workers, random_seed=settings.seed, **_ON_ORDERS)
    solver.best_bound_callback = lambda bound: news.put(_whole(bound))

    def hear(item: dict[OpKey, int] | int) -> None:
        if isinstance(item, int):
            settings.on_bound(item)
        else:
            settings.on_starts(item)

    status = _run(partial(_solve_orders, solver, model, news), solver, news, settings.stopped, hear)
    return _outcome(status, solver)


def solve(solver: cp_model.CpSolver, model: cp_model.CpModel, stopped: Callable[[], bool]) -> str:
    """Solve a model until it is closed, the solver's time is over, or the search is stopped.

    Returns
    -------
    str
        The solver's name for the status, or :data:`ABANDONED`, where there is nothing to be read off the solver.
    """
    news: News = queue.SimpleQueue()
    return _run(lambda: str(solver.status_name(solver.solve(model))), solver, news, stopped, lambda _: None)


def new_solver(seconds: float, workers: int, **parameters: int | bool) -> cp_model.CpSolver:
    """Return a CP-SAT solver. Every one in the package is made here, so this is where its means are set.

    It leaves signals to the caller's thread, and has no limit of its own on memory, which :func:`search` watches
    through ``SolverSettings.stopped``.

    Parameters
    ----------
    seconds, workers
        The time after which it ends, and its threads.
    parameters
        Further fields of CP-SAT's ``SatParameters``: ``random_seed``, ...
    """
    from ortools.sat.python import cp_model

    solver = cp_model.CpSolver()
    solver.parameters.max_time_in_seconds = max(seconds, _LEAST_SECONDS)
    solver.parameters.num_workers = workers
    solver.parameters.catch_sigint_signal = False
    for name, value in parameters.items():
        setattr(solver.parameters, name, value)
    return solver


def _run(
    work: Callable[[], str],
    solver: cp_model.CpSolver,
    news: News,
    stopped: Callable[[], bool],
    hear: Callable[[dict[OpKey, int] | int], None],
) -> str:
    """Solve in a thread of its own, and hand what it reports to ``hear`` until it ends; return the name of its status.

    A solver hears late that it is stopped while it makes a large model ready. Then its thread is left to itself: it
    ends with what it does, or with the process, and nobody listens any more.
    """

    def report() -> None:
        status = "FAILED"
        try:
            status = work()
        finally:
            news.put(status)

    thread = threading.Thread(target=report, name="schedverify-cp-sat", daemon=True)
    thread.start()
    ended: str | None = None
    try:
        ended = _listen(news, solver, stopped, hear)
    finally:
        latest = time.monotonic() + PATIENCE
        while ended is None and thread.is_alive() and time.monotonic() < latest:
            solver.stop_search()
            thread.join(_POLL)
    return ABANDONED if ended is None else ended


def _listen(
    news: News,
    solver: cp_model.CpSolver,
    stopped: Callable[[], bool],
    hear: Callable[[dict[OpKey, int] | int], None],
) -> str | None:
    """Return the name of the status, or None where the solver does not end though it is stopped."""
    latest: float | None = None
    while latest is None or time.monotonic() < latest:
        if stopped():
            solver.stop_search()
            latest = latest or time.monotonic() + PATIENCE
        try:
            item = news.get(timeout=_POLL)
        except queue.Empty:
            continue
        if isinstance(item, str):
            return item
        hear(item)
    return None


def _solve_orders(solver: cp_model.CpSolver, model: OrderModel, news: News) -> str:
    from ortools.sat.python import cp_model

    class Callback(cp_model.CpSolverSolutionCallback):
        def on_solution_callback(self) -> None:
            news.put(model.read(self.value))

    return str(solver.status_name(solver.solve(model.cp, Callback())))


def _outcome(status: str, solver: cp_model.CpSolver) -> SolverOutcome:
    if status == ABANDONED:
        return SolverOutcome(closed=False, found=False, bound=None)
    if status not in ("OPTIMAL", "FEASIBLE", "INFEASIBLE", "UNKNOWN"):
        raise SchedverifyError(f"the solver did not take the model ({status}); please report this")
    bound = None if status == "INFEASIBLE" else _whole(solver.best_objective_bound)
    return SolverOutcome(status in ("OPTIMAL", "INFEASIBLE"), status in ("OPTIMAL", "FEASIBLE"), bound)


def _whole(bound: float) -> int:
    return math.ceil(bound - 1e-6)
