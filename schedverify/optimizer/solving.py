"""The search for the best schedule: limits, bounds, warm starts, and then the model."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from schedverify.optimizer.bounds import best_bound
from schedverify.optimizer.greedy import list_schedule, policies
from schedverify.optimizer.incumbent import Incumbent
from schedverify.optimizer.model import Model
from schedverify.optimizer.orders import complete, earliest, rows_of, schedule_of
from schedverify.optimizer.paths import anchors
from schedverify.optimizer.rules import add_constraints
from schedverify.optimizer.search import Outcome, Settings, search
from schedverify.optimizer.support import check_supported, impossible, limits_of
from schedverify.optimizer.tasks import Tasks
from schedverify.optimizer.values import Hint, Progress, Solution
from schedverify.problem import Problem
from schedverify.result import Status

MOST_STEPS: Final = 60_000
"""The largest problem that is given to the solver; beyond, the model alone takes minutes and gigabytes."""


def solve(
    problem: Problem,
    *,
    objective: str = "makespan",
    time_limit: float = 60,
    seed: int = 0,
    workers: int | None = None,
    hints: Sequence[Hint] = (),
    progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Solution:
    """Search for the schedule with the least makespan or span, and prove how good it is.

    First come the bounds and the warm starts (``hints`` and a list scheduler of its own): where the best of them meets
    a bound, that is the answer. Else CP-SAT searches one model over the orders, which holds every rule of
    :mod:`~schedverify.optimizer.rules`.

    The span of an order is that of its timeline, in which no step waits without need. The model may let the first step
    of a rank wait, which makes its span a lower bound. So the search is first for the best order with first steps in
    their places, then for a proof that even with waiting there is nothing better; where there is, the gap stays open.

    Parameters
    ----------
    objective
        ``makespan`` or ``span``.
    time_limit
        Seconds for all of it.
    seed, workers
        Of the solver. With one worker and the same seed the result is the same wherever the search ends before its
        limit. By default as many workers as the machine has cores.
    hints
        Known schedules, as start ticks of their operations. Those that keep every rule are used, the others are not.
    progress
        Called, in this thread, with every better value and every higher bound.
    stop
        Set it to end the search soon and keep the best so far. Ctrl-C does the same.

    Returns
    -------
    Solution
        Optimal, feasible, infeasible or unknown.

    Raises
    ------
    UnknownNameError
        If the objective is none.
    UnsupportedError
        If the problem has something that the model cannot take yet; names all of it.
    """
    check_supported(problem, objective)
    if reason := impossible(problem):
        return Solution(Status.INFEASIBLE, reason=reason)
    run = _Solve(problem, objective, time_limit, progress, stop)
    try:
        run.start_warm(hints)
        run.search(
            Settings(seed, workers or os.cpu_count() or 1, run.stopped, run.best.offer_starts, lambda _bound: None)
        )
    except KeyboardInterrupt:
        run.interrupted = True
    return run.solution()


class _Solve:
    """One run: the best so far, the clock, and why it ended."""

    def __init__(
        self,
        problem: Problem,
        objective: str,
        time_limit: float,
        progress: Callable[[Progress], None] | None,
        stop: threading.Event | None,
    ) -> None:
        self.problem = problem
        self.objective = objective
        self.time_limit = time_limit
        self.tasks = Tasks(problem)
        self.best = Incumbent(self.tasks, objective, progress)
        self.infeasible = False
        self.interrupted = False
        self.too_large = len(self.tasks.pairs) * len(problem.kinds) > MOST_STEPS
        self._stop = stop
        self._deadline = time.monotonic() + time_limit

    def stopped(self) -> bool:
        """Whether somebody wishes the search to end."""
        return self._stop is not None and self._stop.is_set()

    def over(self) -> bool:
        """Whether nothing more should be tried."""
        return self.best.proved or self.stopped() or self.left() <= 0

    def left(self) -> float:
        """Return the seconds that are left."""
        return self._deadline - time.monotonic()

    def start_warm(self, hints: Sequence[Hint]) -> None:
        """Take the bounds, the hints and the greedy schedules."""
        if bound := best_bound(self.problem, self.objective):
            self.best.evidence = bound.evidence
            self.best.raise_bound(bound.value)
        for hint in hints:
            if complete(self.tasks, hint):
                self.best.offer(rows_of(self.problem, hint))
        for policy in policies(self.tasks):
            if self.over() and (self.best.rows is not None or self.stopped()):
                return
            if rows := list_schedule(self.tasks, policy, self.stopped):
                self.best.offer(rows)

    def search(self, settings: Settings) -> None:
        """Let the solver find better schedules and better bounds."""
        if self.over() or self.too_large:
            return
        if self.objective == "span" and any(anchor is not None for anchor in anchors(self.tasks)):
            self._pass(settings, anchored=True, seconds=self.left() / 2)
        if not self.over():
            outcome = self._pass(replace(settings, on_bound=self._raise_bound), anchored=False, seconds=self.left())
            self._conclude(outcome)

    def solution(self) -> Solution:
        """Return what is known at the end."""
        best, known = self.best, self.best.bound if self.best.evidence else None
        if self.infeasible:
            return Solution(Status.INFEASIBLE, reason=self._why_infeasible())
        if best.rows is None or best.value is None:
            text = f"neither a schedule nor a proof that there is none was found: {self._why_open()}"
            return Solution(Status.UNKNOWN, bound=known, evidence=best.evidence, reason=text)
        starts = earliest(self.tasks, best.rows)
        return Solution(
            Status.OPTIMAL if best.proved else Status.FEASIBLE,
            schedule=schedule_of(best.rows),
            starts=tuple(tuple(self.tasks.ticks(starts[op]) for op in row) for row in best.rows),
            value=best.value,
            bound=known,
            evidence=best.evidence,
            reason="" if best.proved else self._why_open(),
        )

    def _pass(self, settings: Settings, *, anchored: bool, seconds: float) -> Outcome:
        """Search one model for something better than the best so far."""
        model = Model(self.tasks, horizon=self._horizon(), objective=self.objective, anchored=anchored)
        add_constraints(model)
        model.cp.add(model.value >= -(-self.best.bound // self.tasks.unit))
        if self.best.value is not None:
            model.cp.add(model.value <= self.best.value // self.tasks.unit)
        if starts := self.best.fifo_starts():
            model.hint(starts)
        return search(model, seconds, settings)

    def _horizon(self) -> int:
        """Return scaled ticks by which everything better than the best so far has ended."""
        if self.objective != "makespan" or self.best.value is None:
            return self.tasks.horizon
        return self.tasks.scaled(self.best.value) + self.tasks.fine - 1

    def _conclude(self, outcome: Outcome) -> None:
        """Note what the last search proved: of the whole space where it is closed."""
        if outcome.bound is not None:
            self._raise_bound(outcome.bound)
        if outcome.closed and not outcome.found:
            self.infeasible = self.best.value is None
            self.best.raise_bound(self.best.value or 0)

    def _raise_bound(self, units: int) -> None:
        """Take a bound of the solver, which is told to find something better than what is known."""
        ticks = units * self.tasks.unit
        self.best.raise_bound(ticks if self.best.value is None else min(ticks, self.best.value))

    def _why_open(self) -> str:
        if self.too_large:
            return f"the problem has more than {MOST_STEPS} steps, which is beyond the model"
        if self.interrupted or self.stopped():
            return "the search was stopped"
        if self.left() <= 0:
            return f"the time limit of {self.time_limit:g} s ended the search"
        return "first steps that wait could shorten a span, and no order that makes them wait was found"

    def _why_infeasible(self) -> str:
        limits = limits_of(self.problem)
        return f"no order keeps {' and '.join(limits)}" if limits else "no order runs to its end"
