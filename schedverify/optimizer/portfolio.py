"""The parts of a search, in the order in which they pay: bounds, known orders, local search, counts, solvers."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final

from schedverify.core.problem import Problem
from schedverify.core.result import Status
from schedverify.optimizer.bounds.formulas import best_bound
from schedverify.optimizer.counts.bound import count_bounds
from schedverify.optimizer.effort import Effort
from schedverify.optimizer.heuristics import local_search
from schedverify.optimizer.heuristics.greedy import list_schedule, policies
from schedverify.optimizer.model.objectives import reasons_in_all
from schedverify.optimizer.model.rules import add_constraints
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.orders import Hint, complete, rows_of
from schedverify.optimizer.search_state import Progress, SearchRun, Solution
from schedverify.optimizer.solvers import pumpkin
from schedverify.optimizer.solvers.cp_sat import SolverOutcome, SolverSettings, search
from schedverify.optimizer.support import TIMES, check_supported, impossible
from schedverify.optimizer.tasks import Tasks, anchors, heads

MOST_REASONS: Final = 100_000
"""The largest search over prompt first steps."""
_MOVES: Final = 60_000
"""Moves of one walk of the local search."""
_ROUNDS: Final = 6
_LEAST_SECONDS: Final = 2
"""With less time left the local search is left out: it may have to be compiled first."""
_SHORT: Final = 4
"""The longest duration, in units, with which the second solver pays, on one stage a rank."""


def run_parts(run: SearchRun, hints: Sequence[Hint]) -> None:
    """Run one part after another until the question is settled or the means are used up.

    The local search may take a quarter of the time that is left, the count relaxation a third of what then remains,
    the second solver a quarter; CP-SAT has the rest. Where the second solver pays, list schedules are often the best
    already, and the local search makes one round.
    """
    settings = SolverSettings(run.effort.seed, run.effort.threads, run.done, run.best.offer_starts, lambda _bound: None)
    with run.part("bounds"):
        if bound := best_bound(run.problem, run.objective):
            run.best.evidence = bound.evidence
            run.best.raise_bound(bound.value)
    with run.part("known schedules"):
        for hint in hints:
            if complete(run.tasks, hint):
                run.best.offer(rows_of(run.problem, hint))
    if not _ended(run):
        with run.part("list schedules"):
            _schedule_by_lists(run)
    _improve(run)
    _count(run)
    if run.over() or run.too_large:
        return
    if max(heads(run.tasks)) > run.horizon(run.tasks):
        run.conclude(SolverOutcome(closed=True, found=False, bound=None))
        return
    _ask_pumpkin(run, settings)
    _ask_cp_sat(run, settings)


def _ended(run: SearchRun) -> bool:
    """Whether not even a first schedule should be looked for."""
    return run.over() and (run.best.rows is not None or run.effort.stopped)


def _schedule_by_lists(run: SearchRun) -> None:
    for policy in policies(run.tasks):
        if _ended(run):
            return
        if rows := list_schedule(run.tasks, policy, lambda: run.effort.stopped):
            run.best.offer(rows)


def _improve(run: SearchRun) -> None:
    """Walk from the best order to better ones: in each round one walk a thread, each with a seed of its own."""
    if run.over() or run.best.rows is None or not local_search.applies(run.tasks, run.best.rows):
        return
    if run.effort.left < _LEAST_SECONDS:
        return
    until = run.effort.spent + run.effort.left / 4

    def stopped() -> bool:
        return run.done() or run.effort.spent > until

    with run.part("local search"):
        for number in range(1 if _suits_pumpkin(run) else _ROUNDS):
            if stopped():
                return
            start = local_search.LocalSearch(run.tasks, run.best.rows, run.objective)
            target = run.tasks.scaled(run.best.bound) + run.tasks.subticks - 1
            seeds = [run.effort.seed + 1000 * (number * run.effort.threads + k) for k in range(run.effort.threads)]
            with ThreadPoolExecutor(len(seeds)) as pool:
                walks = [pool.submit(start.run, seed, _MOVES, target, stopped) for seed in seeds]
                for walk in walks:
                    run.best.offer(walk.result())


def _count(run: SearchRun) -> None:
    """Raise the bound, and its evidence, by the count relaxation."""
    if run.over():
        return
    ends = [run.best.value, None if run.within is None else run.within + 1]
    upper = min((end for end in ends if end is not None), default=None)
    lower, seconds = run.best.bound, run.effort.left / 3
    with run.part("counts"):
        for bound in count_bounds(
            run.problem, run.objective, lower=lower, upper=upper, seconds=seconds, stopped=run.done
        ):
            run.best.evidence = bound.evidence
            run.best.raise_bound(bound.value)


def _suits_pumpkin(run: SearchRun) -> bool:
    """Whether the second solver is there and pays: short durations and one stage a rank."""
    lone = all(len(stages) <= 1 for stages in run.problem.stages_of)
    short = max(run.tasks.duration.values()) <= _SHORT
    return run.objective == "makespan" and lone and short and pumpkin.installed()


def _ask_pumpkin(run: SearchRun, settings: SolverSettings) -> None:
    """Let the second solver try to prove that nothing is shorter, where it is there and durations are small."""
    if run.best.value is None or not _suits_pumpkin(run):
        return

    def known() -> tuple[int, int]:
        return (run.most() or 0) // run.tasks.unit, -(-run.best.bound // run.tasks.unit)

    with run.part("Pumpkin"):
        telling = replace(settings, on_bound=run.raise_bound)
        pumpkin.prove(run.tasks, run.objective, known, run.effort.left / 4, telling)


def _ask_cp_sat(run: SearchRun, settings: SolverSettings) -> None:
    """Search the model of all orders; for the span, first and last those whose first steps are prompt."""
    telling = replace(settings, on_bound=run.raise_bound)
    if not run.over() and run.objective == "span" and any(anchor is not None for anchor in anchors(run.tasks)):
        with run.part("CP-SAT, first steps in place"):
            _search(run, settings, run.effort.left / 2, anchored=True)
    if not run.over():
        with run.part("CP-SAT"):
            run.conclude(_search(run, telling, run.effort.left))
    if not run.over() and run.objective == "span" and reasons_in_all(run.tasks) <= MOST_REASONS:
        with run.part("CP-SAT, prompt first steps"):
            run.conclude(_search(run, telling, run.effort.left, prompt=True))


def _search(
    run: SearchRun, settings: SolverSettings, seconds: float, *, anchored: bool = False, prompt: bool = False
) -> SolverOutcome:
    """Search one model for something better than the best so far."""
    tasks = Tasks(run.problem, every_mix=True) if prompt else run.tasks
    without = ("fifo",) if prompt else ()
    horizon = run.horizon(tasks)
    model = OrderModel(
        tasks, horizon=horizon, objective=run.objective, anchored=anchored, prompt=prompt, without=without
    )
    add_constraints(model)
    model.cp.add(model.value >= -(-run.best.bound // tasks.unit))
    if (most := run.most()) is not None:
        model.cp.add(model.value <= most // tasks.unit)
    if starts := run.best.starts(tasks) if prompt else run.best.fifo_starts():
        model.hint(starts)
    return search(model, seconds, settings)


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
    start as early as their order lets them (:mod:`~schedverify.optimizer.model.objectives`): this one is exact, and
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
