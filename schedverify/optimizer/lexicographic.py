"""One objective, or two in lexicographic order: the second among the schedules that are best known by the first."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from schedverify.core.errors import Fault, UnsupportedError
from schedverify.core.problem import Problem
from schedverify.core.result import Part, Status
from schedverify.core.schedule import Schedule
from schedverify.optimizer.effort import Effort
from schedverify.optimizer.incumbent import OnProgress
from schedverify.optimizer.orders import Hint, hint_of
from schedverify.optimizer.peak_memory import capped, least_peak
from schedverify.optimizer.portfolio import solve
from schedverify.optimizer.search_state import Solution


class LexicographicResult(NamedTuple):
    """The solutions of both searches; ``second`` is None where there was no second search."""

    first: Solution
    second: Solution | None = None

    @property
    def schedule(self) -> Schedule | None:
        """The best schedule, of the last search that found one."""
        return (self.second and self.second.schedule) or self.first.schedule

    @property
    def value(self) -> int | None:
        """The first objective of the best schedule, as the first search measured it."""
        return self.first.value

    @property
    def status(self) -> Status:
        """Optimal only where each of the values is proved."""
        proved = self.second is None or self.second.status is Status.OPTIMAL
        return self.first.status if proved or self.first.status is not Status.OPTIMAL else Status.FEASIBLE

    @property
    def parts(self) -> tuple[Part, ...]:
        """What the parts of the first search left known, and behind them those of the second."""
        return self.first.parts + (self.second.parts if self.second is not None else ())

    @property
    def reason(self) -> str:
        """Why there is no schedule, or which of the values is open, and why."""
        if self.second is None:
            return self.first.reason
        parts = {"first": self.first, "second": self.second}
        still_open = {name: part.reason for name, part in parts.items() if part.status is not Status.OPTIMAL}
        return "; ".join(f"the {name} objective is open: {reason}" for name, reason in still_open.items())


def minimize(
    problem: Problem,
    *,
    objective: str,
    then: str | None = None,
    effort: Effort,
    hints: Sequence[Hint] = (),
    progress: OnProgress | None = None,
) -> LexicographicResult:
    """Search for the least value of an objective, and among those schedules for the least of another.

    With two, the first search may take half of the time. The second keeps to the best value of the first, proved or
    not: a bound on it holds of every schedule whose first value is no greater.

    Parameters
    ----------
    objective
        ``makespan``, ``span`` or ``peak-memory``.
    then
        ``peak-memory`` behind one of the others, ``makespan`` or ``span`` behind ``peak-memory``, or None.

    Raises
    ------
    UnsupportedError
        If these two do not go together, or the problem has something that the model cannot take yet.
    """
    if then is not None and (objective == "peak-memory") == (then == "peak-memory"):
        message = f"the optimizer cannot minimize the {then} behind the {objective}"
        raise UnsupportedError(Fault("objective.then", message, "one of the two is peak-memory, the other a time"))
    least = partial(least_peak, problem) if objective == "peak-memory" else partial(solve, problem, objective=objective)
    first = least(effort=effort if then is None else effort.part(0.5), hints=hints, progress=progress)
    if then is None or first.schedule is None or first.value is None:
        return LexicographicResult(first)
    known = [hint_of(first.schedule, first.starts), *hints]
    if then == "peak-memory":
        least = partial(least_peak, problem, ceiling=(objective, first.value))
    else:
        least = partial(solve, capped(problem, first.value), objective=then)
    return LexicographicResult(first, least(effort=effort, hints=known, progress=progress))
