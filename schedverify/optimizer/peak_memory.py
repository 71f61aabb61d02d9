"""The least peak memory: ever smaller capacities, until one is proved to be too small."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from schedverify.core.errors import ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.result import Status
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Timeline
from schedverify.optimizer.bounds.formulas import Ceiling, best_peak_bound
from schedverify.optimizer.effort import Effort
from schedverify.optimizer.heuristics.greedy import list_schedule, policies
from schedverify.optimizer.incumbent import OnProgress, Progress
from schedverify.optimizer.orders import (
    Hint,
    Peaks,
    Rows,
    complete,
    falling,
    measure,
    peaks_within_limits,
    rows_of,
    schedule_of,
)
from schedverify.optimizer.portfolio import solve
from schedverify.optimizer.search_state import Solution, none_by
from schedverify.optimizer.support import check_supported, impossible
from schedverify.optimizer.tasks import Tasks
from schedverify.simulator.engine import simulate

_NONE: Final = 1 << 62
"""More bytes than any peak."""
_SHORT: Final = 1.0
"""With fewer seconds left, all of them go to one capacity."""


def least_peak(
    problem: Problem,
    *,
    effort: Effort | None = None,
    ceiling: Ceiling | None = None,
    hints: Sequence[Hint] = (),
    progress: OnProgress | None = None,
) -> Solution:
    """Search for the schedule whose ranks hold the least bytes at most, and prove that none does with fewer.

    First come the bounds and the warm starts: the hints, and the list scheduler under ever smaller capacities. Then the
    capacities between the bound and the best are halved: for each, the search for the makespan (or the span) ends with
    the first schedule that is good enough, or with a proof that there is none. A capacity that stays open after half of
    the time that is left is put aside for larger ones, and taken up again when these are answered.

    Parameters
    ----------
    ceiling
        The makespan or span that no schedule may pass; a makespan limit of the problem holds in any case.
    effort, hints, progress
        As in :func:`~schedverify.optimizer.portfolio.solve`.

    Returns
    -------
    Solution
        ``value`` and ``bound`` are bytes, static ones included.

    Raises
    ------
    UnsupportedError
        If the problem has something that the model cannot take yet; names all of it.
    """
    check_supported(problem, "peak-memory")
    if obstacle := impossible(problem):
        return none_by(obstacle, "peak-memory")
    descent = _CapacityDescent(problem, effort or Effort(), ceiling, progress)
    descent.start_warm(hints)
    if descent.best is None:
        answer = descent.search_within(None, 1)
        if descent.best is None:
            return descent.without_schedule(answer)
    descent.halve()
    return descent.solution()


def capped(problem: Problem, most: int) -> Problem:
    """Return the problem with no more than ``most`` bytes on each rank."""
    given = problem.capacity or (most,) * problem.ranks
    return replace(problem, capacity=tuple(min(most, capacity) for capacity in given))


class PeakLevels:
    """The peaks that a schedule can have, in bytes: the static bytes of some rank and sums of what its stages hold.

    On a rank with static bytes ``s`` these lie on the ladder ``s, s + step, s + 2 step, ...``, where ``step`` is the
    greatest common divisor of what the stages there can hold.
    """

    def __init__(self, problem: Problem) -> None:
        amounts = list(map(math.gcd, problem.saved_activation_bytes, problem.activation, problem.weight_stash))
        self._ladders = [
            (static, math.gcd(*(amounts[stage] for stage in stages)))
            for static, stages in zip(problem.static, problem.stages_of, strict=True)
        ]

    def above(self, least: int) -> int:
        """Return the lowest level that is not below ``least``; ``least`` itself where no level is that high."""
        reached = (s + -(-max(0, least - s) // (step or 1)) * step for s, step in self._ladders)
        return min((level for level in reached if level >= least), default=least)

    def between(self, low: int, high: int) -> int:
        """Return a level near the middle of ``low``, which is one, and ``high``, which is above it."""
        middle = (low + high) // 2
        below = (s + (middle - s) // step * step for s, step in self._ladders if step and s <= middle)
        return max(low, max(below, default=low))


class _CapacityDescent:
    """One search for the least peak.

    Attributes
    ----------
    objective, most
        The time that the ceiling is on, and the ticks that it must not pass.
    bound, evidence
        The bytes that no schedule can go below, and the rule that proves most of them.
    best
        The timeline of the best schedule so far.
    reason
        Why the last capacity that stayed open did.
    """

    def __init__(self, problem: Problem, effort: Effort, ceiling: Ceiling | None, progress: OnProgress | None) -> None:
        self.problem, self.effort, self._progress = problem, effort, progress
        self._tasks = Tasks(problem, ceiling[0] if ceiling else "makespan")
        self.objective, self.most = ceiling or ("makespan", self._tasks.ticks(self._tasks.horizon))
        self.levels = PeakLevels(problem)
        bound = best_peak_bound(problem, ceiling)
        self.bound, self.evidence = self.levels.above(bound.value), bound.evidence
        self.best: Timeline | None = None
        self.reason = ""
        self._gave_up = False

    @property
    def value(self) -> int:
        """The peak of the best; without one, what is above every peak."""
        return _NONE if self.best is None else max(self.best.peak_memory)

    def start_warm(self, hints: Sequence[Hint]) -> None:
        """Take the hints, then list schedules under ever smaller capacities."""
        for hint in hints:
            if complete(self._tasks, hint):
                self._offer(rows_of(self.problem, hint))
        low = self.bound
        if self.best is None and not self._list_within(self.problem):
            return
        while low < self.value and not self.effort.over:
            middle = self.levels.between(low, self.value)
            if not self._list_within(capped(self.problem, middle)):
                low = self.levels.above(middle + 1)

    def halve(self) -> None:
        """Halve what lies between the bound and the best until they meet."""
        floor = self.bound
        while self.bound < self.value and not self.effort.over:
            if floor >= self.value:
                floor = self.bound
            middle = self.levels.between(floor, self.value)
            answer = self.search_within(middle, 1 if self.effort.left < _SHORT else 0.5)
            if answer.status is Status.INFEASIBLE:
                self.bound = floor = self.levels.above(middle + 1)
                self._report()
            elif self.value > middle:
                self.reason, floor = answer.reason, self.levels.above(middle + 1)
                if floor >= self.value and not self.effort.over and self._gave_up:
                    return

    def search_within(self, most: int | None, share: float) -> Solution:
        """Search for any schedule under a capacity, with a share of the time that is left."""
        problem, effort = self.problem if most is None else capped(self.problem, most), self.effort.part(share)
        answer = solve(problem, objective=self.objective, effort=effort, within=self.most)
        self._gave_up = bool(effort.left)
        if answer.schedule is not None and answer.value is not None and answer.value <= self.most:
            self._take(answer.schedule)
        return answer

    def without_schedule(self, answer: Solution) -> Solution:
        """Return how the search for any schedule ended, with evidence that there is none, else that of the peak."""
        limit, evidence = self.problem.makespan_limit, answer.evidence
        if answer.status is Status.INFEASIBLE and limit is not None and evidence and evidence["bound"] > limit:
            return replace(answer, bound=None)
        return replace(answer, bound=self.bound, evidence=self.evidence)

    def solution(self) -> Solution:
        """Return what is known at the end, once there is a best."""
        proved = self.value <= self.bound
        reason = self.reason if self.reason and not self.effort.over else self.effort.why_over()
        return Solution(
            Status.OPTIMAL if proved else Status.FEASIBLE,
            schedule=self.best.schedule if self.best else None,
            starts=tuple(tuple(row.tolist()) for row in self.best.starts) if self.best else (),
            value=self.value,
            bound=self.bound,
            evidence=self.evidence,
            reason="" if proved else reason,
        )

    def _list_within(self, problem: Problem) -> bool:
        """Offer the first list schedule of a problem that does not pass the ceiling; whether there is one."""
        tasks = Tasks(problem)
        for policy in policies(tasks):
            if self._needs_no_first():
                return False
            if (rows := list_schedule(tasks, policy, self._needs_no_first)) and self._offer(rows):
                return True
        return False

    def _needs_no_first(self) -> bool:
        """Whether not even a first schedule should be looked for."""
        return self.effort.too_late_for_first(known=self.best is not None)

    def _offer(self, rows: Rows) -> bool:
        """Keep orders that can run and keep every limit, if they are better than the best; whether they do."""
        try:
            good = measure(self._tasks, rows) <= self.most and peaks_within_limits(self._tasks, rows) is not None
        except ScheduleError:
            return False
        if good:
            self._take(schedule_of(rows))
        return good

    def _take(self, schedule: Schedule) -> None:
        """Keep a schedule whose peak is lower than the best's; of equal ones the shorter, then the one that holds less.

        Shorter is what has less of the time that the ceiling is on.
        """
        timeline, value = simulate(schedule, self.problem), self.value
        if self.best is None or self._order(timeline) < self._order(self.best):
            self.best = timeline
            if self.value != value:
                self._report()

    def _order(self, timeline: Timeline) -> tuple[int, int, Peaks]:
        peaks = falling(timeline.peak_memory)
        return peaks[0], timeline.measures.value(self.objective) or 0, peaks

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(Progress(self.effort.spent, None if self.best is None else self.value, self.bound))
