"""The search for the best schedule: limits, bounds, warm starts, and then the model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from schedverify.optimizer.bounds import best_bound
from schedverify.optimizer.counts_bound import count_bounds
from schedverify.optimizer.effort import MIB, Effort
from schedverify.optimizer.greedy import list_schedule, policies
from schedverify.optimizer.incumbent import Incumbent
from schedverify.optimizer.model import Model
from schedverify.optimizer.orders import complete, earliest, rows_of, schedule_of
from schedverify.optimizer.paths import anchors, heads
from schedverify.optimizer.promptness import reasons_in_all
from schedverify.optimizer.rules import add_constraints
from schedverify.optimizer.search import Outcome, Settings, search
from schedverify.optimizer.support import TIMES, check_supported, impossible, limits_of
from schedverify.optimizer.tasks import Tasks
from schedverify.optimizer.values import Hint, Progress, Solution
from schedverify.problem import Problem
from schedverify.result import Status

MOST_STEPS: Final = 60_000
"""The largest problem that is given to the solver; beyond, the model alone takes minutes and gigabytes."""
MOST_REASONS: Final = 100_000
"""The largest search over prompt first steps."""


def solve(
    problem: Problem,
    *,
    objective: str = "makespan",
    effort: Effort | None = None,
    within: int | None = None,
    hints: Sequence[Hint] = (),
    progress: Callable[[Progress], None] | None = None,
) -> Solution:
    """Search for the schedule with the least makespan or span, and prove how good it is.

    First come the bounds and the warm starts (``hints`` and a list scheduler of its own): where the best of them meets
    a bound, that is the answer. Else the count relaxation (:mod:`~schedverify.optimizer.counts`) raises the bound, and
    where that is not enough, CP-SAT searches one model over the orders, which holds every rule of
    :mod:`~schedverify.optimizer.rules`.

    The span of an order is that of its timeline, in which no step waits without need. The model may let the first step
    of a rank wait, which makes its span a lower bound. So the search is first for the best order with first steps in
    their places, then for a proof that even with waiting there is nothing better. Where there is, a third search is
    over all orders, not only those that go first in, first out, and every form of the backward, with first steps that
    start as early as their order lets them (:mod:`~schedverify.optimizer.promptness`): this one is exact, and slower.
    Where it would be too large, the gap stays open.

    Parameters
    ----------
    objective
        ``makespan`` or ``span``.
    effort
        The means for all of it. With one worker and the same seed the result is the same wherever the search ends
        before its limits.
    within
        A value that is good enough: the search ends with the first schedule that has no more, or with a proof that
        none has, which is then the meaning of infeasible.
    hints
        Known schedules, as start ticks of their operations. Those that keep every rule are used, the others are not.
    progress
        Called, in this thread, with every better value and every higher bound.

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
    check_supported(problem, objective, TIMES)
    if reason := impossible(problem):
        return Solution(Status.INFEASIBLE, reason=reason)
    effort = effort or Effort()
    run = _Solve(problem, objective, effort, within, progress)
    try:
        run.start_warm(hints)
        run.search(Settings(effort.seed, effort.threads, run.done, run.best.offer_starts, lambda _bound: None))
    except KeyboardInterrupt:
        effort.stop.set()
    return run.solution()


class _Solve:
    """One run: the best so far, the clock, and why it ended."""

    def __init__(
        self,
        problem: Problem,
        objective: str,
        effort: Effort,
        within: int | None,
        progress: Callable[[Progress], None] | None,
    ) -> None:
        self.problem = problem
        self.objective = objective
        self.effort = effort
        self.tasks = Tasks(problem)
        self.within = None if within is None else min(within, self.tasks.ticks(self.tasks.horizon))
        self.best = Incumbent(self.tasks, objective, progress)
        self.infeasible = False
        self.closed = False
        self.exhausted = False
        self.too_large = len(self.tasks.pairs) * len(problem.kinds) > MOST_STEPS

    def stopped(self) -> bool:
        """Whether somebody wishes the search to end, or its memory is used up."""
        self.exhausted = self.exhausted or self.effort.exhausted
        return self.effort.stopped or self.exhausted

    def done(self) -> bool:
        """Whether a search need not go on: nobody waits for it, or what it has is good enough."""
        return self.stopped() or self.settled()

    def settled(self) -> bool:
        """Whether the question is answered: the best is proved, or good enough, or nothing can be good enough."""
        good = self.within is not None and self.best.value is not None and self.best.value <= self.within
        return self.best.proved or good or self.hopeless()

    def hopeless(self) -> bool:
        """Whether it is proved that no schedule is good enough, or that there is none at all."""
        return self.infeasible or (self.within is not None and self.best.bound > self.within)

    def over(self) -> bool:
        """Whether nothing more should be tried."""
        return self.done() or not self.effort.left

    def start_warm(self, hints: Sequence[Hint]) -> None:
        """Take the bounds, the hints and the greedy schedules."""
        if bound := best_bound(self.problem, self.objective):
            self.best.evidence = bound.evidence
            self.best.raise_bound(bound.value)
        for hint in hints:
            if complete(self.tasks, hint):
                self.best.offer(rows_of(self.problem, hint))
        for policy in policies(self.tasks):
            if self.over() and (self.best.rows is not None or self.effort.stopped):
                return
            if rows := list_schedule(self.tasks, policy, lambda: self.effort.stopped):
                self.best.offer(rows)

    def count(self) -> None:
        """Raise the bound, and its evidence, by the count relaxation; it may take a third of the time."""
        ends = [self.best.value, None if self.within is None else self.within + 1]
        upper = min((end for end in ends if end is not None), default=None)
        if self.over():
            return
        lower, seconds = self.best.bound, self.effort.left / 3
        for bound in count_bounds(
            self.problem, self.objective, lower=lower, upper=upper, seconds=seconds, stopped=self.done
        ):
            self.best.evidence = bound.evidence
            self.best.raise_bound(bound.value)

    def search(self, settings: Settings) -> None:
        """Let the solver find better schedules and better bounds."""
        self.count()
        if self.over() or self.too_large:
            return
        if max(heads(self.tasks)) > self._horizon(self.tasks):
            self._conclude(Outcome(closed=True, found=False, bound=None))
            return
        if self.objective == "span" and any(anchor is not None for anchor in anchors(self.tasks)):
            self._pass(settings, self.effort.left / 2, anchored=True)
        telling = replace(settings, on_bound=self._raise_bound)
        if not self.over():
            self._conclude(self._pass(telling, self.effort.left))
        if self.objective == "span" and not self.over() and self._can_be_prompt():
            self._conclude(self._pass(telling, self.effort.left, prompt=True))

    def solution(self) -> Solution:
        """Return what is known at the end."""
        best, known = self.best, self.best.bound if self.best.evidence else None
        if self.hopeless():
            return Solution(Status.INFEASIBLE, bound=known, evidence=best.evidence, reason=self._why_infeasible())
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

    def _pass(self, settings: Settings, seconds: float, *, anchored: bool = False, prompt: bool = False) -> Outcome:
        """Search one model for something better than the best so far."""
        tasks = Tasks(self.problem, every_mix=True) if prompt else self.tasks
        without = ("fifo",) if prompt else ()
        horizon = self._horizon(tasks)
        model = Model(
            tasks, horizon=horizon, objective=self.objective, anchored=anchored, prompt=prompt, without=without
        )
        add_constraints(model)
        model.cp.add(model.value >= -(-self.best.bound // tasks.unit))
        if (most := self._most()) is not None:
            model.cp.add(model.value <= most // tasks.unit)
        if starts := self.best.starts(tasks) if prompt else self.best.fifo_starts():
            model.hint(starts)
        return search(model, seconds, settings)

    def _can_be_prompt(self) -> bool:
        """Whether the model with prompt first steps is of a size that a solver can take."""
        return reasons_in_all(self.tasks) <= MOST_REASONS

    def _most(self) -> int | None:
        """Return the most ticks that a schedule may have to be of use, or None where any is."""
        return min((most for most in (self.best.value, self.within) if most is not None), default=None)

    def _horizon(self, tasks: Tasks) -> int:
        """Return scaled ticks by which everything of use has ended."""
        ends = [self.problem.makespan_limit, self._most() if self.objective == "makespan" else None]
        return min([tasks.horizon] + [tasks.scaled(end) + tasks.fine - 1 for end in ends if end is not None])

    def _conclude(self, outcome: Outcome) -> None:
        """Note what the last search proved: of the whole space where it is closed."""
        if outcome.bound is not None:
            self._raise_bound(outcome.bound)
        self.closed = outcome.closed
        if outcome.closed and not outcome.found:
            self.infeasible = self.best.value is None or self._most() != self.best.value
            self.best.raise_bound(self._most() or 0)

    def _raise_bound(self, units: int) -> None:
        """Take a bound of the solver, which is told to find something as good as :meth:`_most`."""
        ticks, most = units * self.tasks.unit, self._most()
        self.best.raise_bound(ticks if most is None else min(ticks, most))

    def _why_open(self) -> str:
        if self.too_large:
            return f"the problem has more than {MOST_STEPS} steps, which is beyond the model"
        if self.exhausted:
            return f"the process came to hold the {(self.effort.memory or 0) // MIB} MiB that the solver may take"
        if self.within is not None and self.settled():
            return f"the search ended with a {self.objective} of no more than {self.within}"
        if self.stopped() or not self.closed:
            return self.effort.why_over()
        return "first steps that wait could shorten a span, and no order that makes them wait was found"

    def _why_infeasible(self) -> str:
        limits = limits_of(self.problem)
        within = self.within if self.within is not None and self.within < self.tasks.ticks(self.tasks.horizon) else None
        what = "no order" if within is None else f"no order with a {self.objective} of {within} or less"
        return f"{what} keeps {' and '.join(limits)}" if limits else f"{what} runs to its end"
