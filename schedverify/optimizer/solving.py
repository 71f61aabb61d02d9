"""The search for the best schedule: what cannot be is said at once, everything else goes through the portfolio."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from schedverify.core.problem import Problem
from schedverify.core.result import Status
from schedverify.optimizer.effort import Effort
from schedverify.optimizer.portfolio import run_parts
from schedverify.optimizer.search_state import SearchRun
from schedverify.optimizer.support import TIMES, check_supported, impossible
from schedverify.optimizer.values import Hint, Progress, Solution


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
    a bound, that is the answer. Else a local search (:mod:`~schedverify.optimizer.heuristics.local_search`) shortens
    the best of them and the count relaxation (:mod:`~schedverify.optimizer.counts.relaxation`) raises the bound. Where
    that is not enough, solvers search one model over the orders, which holds every rule of
    :mod:`~schedverify.optimizer.model.rules`. What each part gave, and when, stands in the solution.

    The span of an order is that of its timeline, in which no step waits without need. The model may let the first step
    of a rank wait, which makes its span a lower bound. So the search is first for the best order with first steps in
    their places, then for a proof that even with waiting there is nothing better. Where there is, a third search is
    over all orders, not only those that go first in, first out, and every form of the backward, with first steps that
    start as early as their order lets them (:mod:`~schedverify.optimizer.model.promptness`): this one is exact, and
    slower. Where it would be too large, the gap stays open.

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
    run = SearchRun(problem, objective, effort, within, progress)
    try:
        run_parts(run, hints)
    except KeyboardInterrupt:
        effort.stop.set()
    return run.solution()
