"""One run of a search: the best so far, what is proved, the clock, and how it ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

from schedverify.core.problem import Problem
from schedverify.core.result import Part, Status
from schedverify.optimizer.effort import MIB, Effort
from schedverify.optimizer.incumbent import Incumbent
from schedverify.optimizer.orders import earliest, schedule_of
from schedverify.optimizer.solvers.cp_sat import SolverOutcome
from schedverify.optimizer.support import limits_of
from schedverify.optimizer.tasks import Tasks
from schedverify.optimizer.values import Progress, Solution

MOST_STEPS: Final = 60_000
"""The largest problem that is given to the solver; beyond, the model alone takes minutes and gigabytes."""


class SearchRun:
    """The state that the parts of a search share.

    Attributes
    ----------
    within
        A value that is good enough, or None.
    closed
        Whether the last search over the whole space came to its end.
    parts
        What each part left known when it ended, in their order.
    """

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
        self.parts: list[Part] = []
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

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Note what is known, and when, once a part of the search has ended."""
        began = time.monotonic()
        try:
            yield
        finally:
            best = self.best
            seconds = (best.seconds, time.monotonic() - began)
            self.parts.append(Part(name, seconds[0] - seconds[1], seconds[1], best.value, best.bound or None))

    def solution(self) -> Solution:
        """Return what is known at the end."""
        best, known = self.best, self.best.bound if self.best.evidence else None
        if self.hopeless():
            return Solution(
                Status.INFEASIBLE,
                bound=known,
                evidence=best.evidence,
                reason=self._why_infeasible(),
                parts=tuple(self.parts),
            )
        if best.rows is None or best.value is None:
            text = f"neither a schedule nor a proof that there is none was found: {self._why_open()}"
            return Solution(Status.UNKNOWN, bound=known, evidence=best.evidence, reason=text, parts=tuple(self.parts))
        starts = earliest(self.tasks, best.rows)
        return Solution(
            Status.OPTIMAL if best.proved else Status.FEASIBLE,
            schedule=schedule_of(best.rows),
            starts=tuple(tuple(self.tasks.ticks(starts[op]) for op in row) for row in best.rows),
            value=best.value,
            bound=known,
            evidence=best.evidence,
            reason="" if best.proved else self._why_open(),
            parts=tuple(self.parts),
        )

    def most(self) -> int | None:
        """Return the most ticks that a schedule may have to be of use, or None where any is."""
        return min((most for most in (self.best.value, self.within) if most is not None), default=None)

    def horizon(self, tasks: Tasks) -> int:
        """Return scaled ticks by which everything of use has ended."""
        ends = [self.problem.makespan_limit, self.most() if self.objective == "makespan" else None]
        return min([tasks.horizon] + [tasks.scaled(end) + tasks.fine - 1 for end in ends if end is not None])

    def conclude(self, outcome: SolverOutcome) -> None:
        """Note what the last search proved: of the whole space where it is closed."""
        if outcome.bound is not None:
            self.raise_bound(outcome.bound)
        self.closed = outcome.closed
        if outcome.closed and not outcome.found:
            self.infeasible = self.best.value is None or self.most() != self.best.value
            self.best.raise_bound(self.most() or 0)

    def raise_bound(self, units: int) -> None:
        """Take a bound of the solver, which is told to find something as good as :meth:`most`."""
        ticks, most = units * self.tasks.unit, self.most()
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
