"""The search for the best schedule: its parts, in the order in which they pay.

What no order can do is said at once. Everything else goes through bounds, known orders, list schedules, local search,
count relaxation and solvers.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final

from schedverify.core.ending import OverError
from schedverify.core.problem import Problem
from schedverify.optimizer.bounds.formulas import best_bound
from schedverify.optimizer.counts.bound import count_bounds
from schedverify.optimizer.effort import Effort
from schedverify.optimizer.heuristics import local_search
from schedverify.optimizer.heuristics.greedy import list_schedule, policies
from schedverify.optimizer.incumbent import OnProgress
from schedverify.optimizer.model.rules import add_constraints
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.orders import Hint, complete, earliest, rows_of, tightest
from schedverify.optimizer.search_state import SearchState, Solution, none_by
from schedverify.optimizer.solvers import pumpkin
from schedverify.optimizer.solvers.cp_sat import SolverOutcome, SolverSettings, search
from schedverify.optimizer.support import TIMES, check_supported, impossible
from schedverify.optimizer.tasks import heads

_MOVES: Final = 60_000
"""Moves of one walk of the local search."""
_ROUNDS: Final = 6
"""Rounds of the local search; each begins at the best order of the one before."""
_BOUNDS_SECONDS: Final = 1
"""Seconds that the bounds by formula may take even where the time is over."""
_LEAST_SECONDS: Final = 2
"""With less time left the local search is left out: it may have to be compiled first."""
_SHORT: Final = 4
"""The longest duration, in units, with which the second solver pays, on one stage a rank."""


def solve(
    problem: Problem,
    *,
    objective: str = "makespan",
    effort: Effort | None = None,
    within: int | None = None,
    hints: Sequence[Hint] = (),
    progress: OnProgress | None = None,
) -> Solution:
    """Search for the schedule with the least makespan or span, and prove how good it is.

    First come the bounds and the warm starts (``hints`` and a list scheduler of its own): where the best of them meets
    a bound, that is the answer. Else a local search (:mod:`~schedverify.optimizer.heuristics.local_search`) shortens
    the best of them and the count relaxation (:mod:`~schedverify.optimizer.counts.relaxation`) raises the bound. Where
    that is not enough, solvers search one model over the orders, which holds every rule of
    :mod:`~schedverify.optimizer.model.rules`. What each part gave, and when, stands in the solution.

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
    if obstacle := impossible(problem):
        return none_by(obstacle, objective)
    effort = effort or Effort()
    state = SearchState(problem, objective, effort, within, progress)
    try:
        run_parts(state, hints)
    except OverError:
        pass  # what ended it is told from the state, as for a part that ends by itself
    except KeyboardInterrupt:
        effort.stop.set()
    return state.solution()


def run_parts(state: SearchState, hints: Sequence[Hint]) -> None:
    """Run one part after another until the question is settled or the means are used up.

    The local search may take a quarter of the time that is left, the count relaxation a third of what then remains,
    the second solver a quarter; CP-SAT has the rest. Where the second solver pays, list schedules are often the best
    already, and the local search makes one round.
    """
    effort, best = state.effort, state.best
    settings = SolverSettings(effort.seed, effort.threads, state.done, best.offer_starts, state.raise_bound)
    with state.part("bounds"):
        latest = effort.spent + _BOUNDS_SECONDS
        if bound := best_bound(state.problem, state.objective, lambda: effort.over and effort.spent > latest):
            best.prove(bound)
    with state.part("known schedules"):
        for hint in hints:
            if best.rows is not None and effort.over:
                break
            if complete(state.tasks, hint):
                best.offer(rows_of(state.problem, hint))
    if not state.needs_no_first():
        with state.part("list schedules"):
            _schedule_by_lists(state)
    _improve(state)
    _count(state)
    if state.over() or state.too_large:
        return
    if max(heads(state.tasks)) > state.horizon():
        state.conclude(SolverOutcome(closed=True, found=False, bound=None))
        return
    _prove_with_pumpkin(state, settings)
    _search_with_cp_sat(state, settings)


def _schedule_by_lists(state: SearchState) -> None:
    for policy in policies(state.tasks):
        if state.needs_no_first():
            return
        if rows := list_schedule(state.tasks, policy, state.needs_no_first):
            state.best.offer(rows)


def _improve(state: SearchState) -> None:
    """Walk from the best order to better ones: in each round one walk a thread, each with a seed of its own."""
    if state.over() or state.best.rows is None or not local_search.applies(state.tasks, state.best.rows):
        return
    if state.effort.left < _LEAST_SECONDS:
        return
    until, threads = state.effort.spent + state.effort.left / 4, state.effort.threads

    def stopped() -> bool:
        return state.done() or state.effort.spent > until

    with state.part("local search"):
        for number in range(1 if _suits_pumpkin(state) else _ROUNDS):
            if stopped():
                return
            start = local_search.LocalSearch(state.tasks, state.best.rows, state.effort.check)
            target = state.tasks.scaled(state.best.bound) + state.tasks.instant
            seeds = [state.effort.seed + 1000 * (number * threads + k) for k in range(threads)]
            with ThreadPoolExecutor(threads) as pool:
                walks = [pool.submit(start.run, seed, _MOVES, target, stopped) for seed in seeds]
                for walk in walks:
                    state.best.offer(walk.result())


def _count(state: SearchState) -> None:
    """Raise the bound, and its evidence, by the count relaxation."""
    if state.over():
        return
    limits = [limit + 1 for limit in (state.within, state.problem.makespan_limit) if limit is not None]
    upper = min((end for end in (state.best.value, *limits) if end is not None), default=None)
    lower, seconds = state.best.bound, state.effort.left / 3
    with state.part("counts"):
        for bound in count_bounds(
            state.problem, state.objective, lower=lower, upper=upper, seconds=seconds, stopped=state.done
        ):
            state.best.prove(bound)


def _suits_pumpkin(state: SearchState) -> bool:
    """Whether the second solver is there and pays: short durations and one stage a rank."""
    lone = all(len(stages) <= 1 for stages in state.problem.stages_of)
    short = max(state.tasks.duration.values()) <= _SHORT
    return state.objective == "makespan" and lone and short and pumpkin.installed()


def _prove_with_pumpkin(state: SearchState, settings: SolverSettings) -> None:
    """Let the second solver try to prove that nothing is shorter, where it is there and durations are small."""
    if state.best.value is None or not _suits_pumpkin(state):
        return

    def known() -> tuple[int, int]:
        return (state.most() or 0) // state.tasks.unit, -(-state.best.bound // state.tasks.unit)

    with state.part("Pumpkin"):
        pumpkin.prove(state.tasks, known, state.effort.left / 4, settings, check=state.effort.check)


def _search_with_cp_sat(state: SearchState, settings: SolverSettings) -> None:
    """Search the model of all orders for something better than the best so far."""
    if state.over():
        return
    with state.part("CP-SAT"):
        model = OrderModel(state.tasks, horizon=state.horizon(), check=state.effort.check)
        add_constraints(model)
        model.cp.add(model.value >= -(-state.best.bound // state.tasks.unit))
        if (most := state.most()) is not None:
            model.cp.add(model.value <= most // state.tasks.unit)
        if rows := state.best.fifo_rows():
            early = earliest(state.tasks, rows)
            model.hint(tightest(state.tasks, rows)[1] if state.objective == "span" else early, early)
        state.conclude(search(model, state.effort.left, settings))
