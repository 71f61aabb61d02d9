"""The state of a search: the best schedule so far, what is proved, the clock, and how it ended."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any, Final

from schedverify.core.plan import Part, relative_gap
from schedverify.core.problem import Problem
from schedverify.core.result import Status
from schedverify.core.schedule import Schedule
from schedverify.optimizer.effort import MIB, Effort
from schedverify.optimizer.incumbent import Incumbent, OnProgress
from schedverify.optimizer.orders import (
    schedule_of,
)
from schedverify.optimizer.solvers.cp_sat import SolverOutcome
from schedverify.optimizer.support import Obstacle, limits_of
from schedverify.optimizer.tasks import Tasks

MOST_STEPS: Final = 60_000
"""The most steps of a problem that is given to a solver; with more, the model alone takes minutes and gigabytes."""


@dataclass(frozen=True)
class Solution:
    """How a search ended, and the best schedule that it found.

    Attributes
    ----------
    status
        Optimal only where ``value == bound`` is proved; infeasible only where it is proved that no order keeps the
        limits; feasible with a schedule and an open gap; unknown where neither a schedule nor a proof was found.
    schedule
        None where the status is infeasible or unknown.
    starts
        For each rank the start of every step in ticks, as early as the order allows.
    value, bound
        The objective of ``schedule``, measured on its timeline, and a number of ticks that no schedule can go below.
    evidence
        The combinatorial rule that proves most, with its place and the ``bound`` that follows from it. Where
        :attr:`bound` is higher, the rest is the solver's word. Where no order keeps the limits, it may be of something
        else than the objective: of what every order needs that is beyond one of them.
    reason
        Why there is no schedule, or what is left open.
    parts
        What each part of the search left known, in their order.
    """

    status: Status
    schedule: Schedule | None = None
    starts: tuple[tuple[int, ...], ...] = ()
    value: int | None = None
    bound: int | None = None
    evidence: Mapping[str, Any] | None = field(default=None, hash=False)
    reason: str = ""
    parts: tuple[Part, ...] = field(default=(), compare=False)

    @property
    def gap(self) -> Fraction | None:
        """``(value - bound) / bound``; None where either is unknown or the bound is 0."""
        return relative_gap(self.value, self.bound)


def none_by(obstacle: Obstacle, objective: str) -> Solution:
    """Return that no order keeps the limits; what every order needs is a bound where it is of the objective."""
    evidence = obstacle.evidence
    bound = evidence["bound"] if evidence["objective"] == objective else None
    return Solution(Status.INFEASIBLE, bound=bound, evidence=evidence, reason=obstacle.reason)


class SearchState:
    """What the parts of a search share: the problem, the means, the best so far, and what is proved.

    Attributes
    ----------
    tasks
        The problem in scaled ticks.
    within
        A value that is good enough, or None.
    best
        The best schedule and the highest bound so far.
    infeasible
        Whether it is proved that no schedule is better than what was asked for.
    closed
        Whether the last search over the whole space came to its end.
    exhausted
        Whether the process came to hold more memory than it may.
    parts
        What each part left known when it ended, in their order.
    """

    def __init__(
        self, problem: Problem, objective: str, effort: Effort, within: int | None, progress: OnProgress | None
    ) -> None:
        self.problem, self.objective, self.effort = problem, objective, effort
        self.tasks = Tasks(problem, objective)
        self.within = None if within is None else min(within, self.tasks.ticks(self.tasks.horizon))
        self.best = Incumbent(self.tasks, progress)
        self.infeasible = self.closed = self.exhausted = False
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
        """Whether it is proved that no schedule is good enough, or that there is none at all.

        A span is no longer than the makespan, so that a bound on either is one on that.
        """
        ends = (self.within, self.problem.makespan_limit)
        return self.infeasible or any(end is not None and self.best.bound > end for end in ends)

    def over(self) -> bool:
        """Whether nothing more should be tried."""
        return self.done() or not self.effort.left

    def needs_no_first(self) -> bool:
        """Whether not even a first schedule should be looked for."""
        return self.settled() or self.effort.too_late_for_first(known=self.best.rows is not None)

    @contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Add a part of the search to ``parts`` once it has ended: what is known then, and when."""
        best, began = self.best, self.best.seconds
        best.begin(name)
        try:
            yield
        finally:
            self.parts.append(Part(name, began, best.seconds - began, best.value, best.bound or None))

    def solution(self) -> Solution:
        """Return what is known at the end."""
        best = self.best
        known = best.bound if best.evidence else None
        solution = partial(Solution, bound=known, evidence=best.evidence, parts=tuple(self.parts))
        if self.hopeless():
            return solution(Status.INFEASIBLE, reason=self._why_infeasible())
        if best.rows is None or best.value is None:
            text = f"neither a schedule nor a proof that there is none was found: {self._why_open()}"
            return solution(Status.UNKNOWN, reason=text)
        return solution(
            Status.OPTIMAL if best.proved else Status.FEASIBLE,
            schedule=schedule_of(best.rows),
            starts=tuple(tuple(self.tasks.ticks(best.starts[op]) for op in row) for row in best.rows),
            value=best.value,
            reason="" if best.proved else self._why_open(),
        )

    def most(self) -> int | None:
        """Return the most ticks that a schedule may have to be of use, or None where any is."""
        return min((most for most in (self.best.value, self.within) if most is not None), default=None)

    def horizon(self) -> int:
        """Return scaled ticks by which everything of use has ended in the model.

        For the span its first steps wait: what has ended by then in the earliest timeline of an order says nothing.
        """
        tasks, limits = self.tasks, [self.problem.makespan_limit, self.most()]
        ends = [] if self.objective == "span" else [tasks.scaled(end) for end in limits if end is not None]
        return min([tasks.horizon] + [end + tasks.instant for end in ends])

    def conclude(self, outcome: SolverOutcome) -> None:
        """Take over what a search over the whole space proved: all, where it came to its end."""
        if outcome.bound is not None:
            self.raise_bound(outcome.bound)
        self.closed = outcome.closed
        if outcome.closed and not outcome.found:
            self.infeasible = self.best.value is None or self.most() != self.best.value
            self.best.raise_bound(self.most() or 0)

    def raise_bound(self, units: int) -> None:
        """Take over a solver's bound, in units; it looks for nothing above :meth:`most`, which therefore caps it."""
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
        return "too many steps share a rank for a model of orders that keep limits.makespan while first steps wait"

    def _why_infeasible(self) -> str:
        limits = limits_of(self.problem)
        within = self.within if self.within is not None and self.within < self.tasks.ticks(self.tasks.horizon) else None
        what = "no order" if within is None else f"no order with a {self.objective} of {within} or less"
        return f"{what} keeps {' and '.join(limits)}" if limits else f"{what} runs to its end"
