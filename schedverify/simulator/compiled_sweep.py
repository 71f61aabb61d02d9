"""A sweep over the steps of a large schedule, each one operation on one rank, by the compiled loop."""

from __future__ import annotations

import numpy as np

from schedverify.core.problem import Problem
from schedverify.core.schedule import IntArray, Schedule
from schedverify.core.timeline import Ticks
from schedverify.simulator.op_classes import check_ended, class_table, places_of
from schedverify.simulator.span import RankWindows


class CompiledSweep:
    """A sweep of single operations, by the compiled loop."""

    def __init__(self, schedule: Schedule, problem: Problem) -> None:
        self.places = places_of(problem)
        self.counts = [len(row) for row in schedule.rows]
        self.bounds = np.cumsum([0, *self.counts])
        self.words, self.table = np.concatenate(schedule.rows), class_table(problem)

    def earliest(self) -> tuple[tuple[Ticks, ...], tuple[Ticks, ...], RankWindows]:
        """Do what the plain sweep does."""
        starts, ends, windows = self._run([0] * len(self.counts))
        return tuple(np.split(starts, self.bounds[1:-1])), tuple(np.split(ends, self.bounds[1:-1])), windows

    def windows(self, release: list[int]) -> RankWindows:
        """Do what the plain sweep does, with releases below 2^62."""
        return self._run(release)[2]

    def _run(self, release: list[int]) -> tuple[IntArray, IntArray, RankWindows]:
        from schedverify.simulator import kernels

        starts, ends, done, origin = kernels.sweep(self.words, self.bounds, self.table, self.places, np.array(release))
        check_ended(done.tolist(), self.counts)
        first = [int(starts[begin]) if count else 0 for begin, count in zip(self.bounds, self.counts, strict=False)]
        last = [int(ends[end - 1]) if count else 0 for end, count in zip(self.bounds[1:], self.counts, strict=True)]
        origins = [rank if count else -1 for rank, count in zip(origin.tolist(), self.counts, strict=True)]
        return starts, ends, RankWindows(first, last, origins)
