"""The search: partitions in the order of their bounds, each given to the optimizer with the best makespan as cutoff."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from schedverify.core.errors import InputError
from schedverify.core.model import Model
from schedverify.core.problem import Problem
from schedverify.core.result import Status
from schedverify.generators import families
from schedverify.optimizer import Effort, Hint, Progress, Solution, hint_of, solve
from schedverify.optimizer.bounds.formulas import best_bound
from schedverify.partitioner.best_first import PartitionsByBound
from schedverify.partitioner.lower_bounds import MakespanBounds
from schedverify.partitioner.stage_problem import stage_problem
from schedverify.simulator.engine import simulate

Ints = tuple[int, ...]
_SHARE: Final = 1 / 40
"""Of the whole time, what one partition may take when its turn comes; each further time twice as much."""
_AHEAD: Final = 8
"""Partitions under each placement that get a glance before the first of them has its turn."""
_GLANCE: Final = 1 / 200
"""Of the whole time, what a glance may take: enough for the families' schedules and some by lists."""
_MOST_ASKED: Final = 2000
"""Beginnings of partitions that are looked at for a first one, however short the time is."""


@dataclass(eq=False)
class Looked:
    """A partition that the optimizer is asked about, and what it has said so far."""

    layers: tuple[Ints, ...]
    problem: Problem
    bound: int
    evidence: Any
    solution: Solution | None = None
    times: int = 0
    without_search: int = field(init=False)
    figures: tuple[int, ...] = field(init=False)

    def __post_init__(self) -> None:
        self.without_search, p = self.bound, self.problem
        self.figures = (*p.forward, *p.backward, *p.backward_input, *p.backward_weight, *p.activation, *p.weight_stash,
                        *p.static, *p.boundary_bytes)  # fmt: skip

    @property
    def value(self) -> int | None:
        """The least makespan that was found."""
        return None if self.solution is None else self.solution.value

    def no_worse(self, other: Problem, figures: Ints) -> bool:
        """Whether every schedule of another partition is one of this, no longer and holding no more.

        So it is under one placement where no duration, transfer or memory of this is greater: starts are longest paths,
        which rise with each duration, and what a rank holds at its steps follows from its order.
        """
        return self.problem.owner_rank == other.owner_rank and all(map(int.__le__, self.figures, figures))


class Search:
    """The partitions of a model under several placements, and the best schedule of any of them.

    Parameters
    ----------
    shapes
        Problems with the ranks, placement and micro-batches; their costs are not looked at.
    """

    def __init__(
        self, model: Model, shapes: Sequence[Problem], effort: Effort, progress: Callable[[Progress], None] | None
    ) -> None:
        self.model, self.shapes, self.effort, self._progress = model, shapes, effort, progress
        self.looked: list[Looked] = []
        self._asked = 0
        self.linearized = False
        self.best: Looked | None = None
        self.coming = {shape.owner_rank: self._partitions(shape) for shape in shapes}

    @property
    def value(self) -> int | None:
        """The least makespan so far."""
        return None if self.best is None else self.best.value

    @property
    def bound(self) -> int:
        """Ticks that no schedule of any partition can go below."""
        coming = (partitions.least for partitions in self.coming.values())
        known = [self.value, *coming, *(looked.bound for looked in self.looked)]
        return min((bound for bound in known if bound is not None), default=0)

    def run(self) -> None:
        """Look at partitions until none with a bound below the best makespan is left, or the means are used up.

        Those that come next get a glance before, so that the best is good before it is a cutoff. Those that stay open
        have their turn again once no new ones come.
        """
        streams = {
            owner_rank: coming.below(lambda: self.value, self._over) for owner_rank, coming in self.coming.items()
        }
        while True:
            for owner_rank, stream in streams.items():
                while self._fresh(owner_rank) < _AHEAD and (whole := next(stream, None)) is not None:
                    self._meet(whole.judged)
            if self.effort.over or not (still := list(self._open())):
                return
            self.look(min(still, key=lambda one: (one.times > 0, one.bound)))

    def tried(self) -> Iterator[Looked]:
        """Yield the best partition, and those that the bounds without search do not rule out."""
        for looked in self.looked:
            if looked is self.best or looked.times or self.value is None or looked.without_search < self.value:
                yield looked

    def begin(self, looked: Looked, share: float) -> None:
        """Look at a first partition for a share of the time."""
        self.looked.append(looked)
        self.look(looked, share)

    def look(self, looked: Looked, share: float | None = None) -> None:
        """Ask the optimizer about a partition: for something shorter than the best, and then for its shortest."""
        cutoff, share = self.value, _SHARE * 2**looked.times if share is None else share
        looked.times += 1
        if self._solve(looked, share, cutoff) and cutoff is not None and looked.bound < (looked.value or 0):
            self._solve(looked, share, None)
        self._tell()

    def _meet(self, looked: Looked) -> None:
        """Take a glance at a new partition, unless one that is known is no worse."""
        if not any(one.no_worse(looked.problem, looked.figures) for one in self.looked):
            self.looked.append(looked)
            self._solve(looked, _GLANCE, None)
            self._tell()

    def asked(self, layers: tuple[Ints, ...], problem: Problem) -> Looked:
        """Return a partition to look at, with the bound that needs no search."""
        bound = best_bound(problem, "makespan")
        return Looked(layers, problem, bound.value if bound else 0, bound and bound.evidence)

    def _fresh(self, owner_rank: Ints) -> int:
        """Return how many open partitions under a placement have not had their turn."""
        return sum(not one.times and one.problem.owner_rank == owner_rank for one in self._open())

    def _over(self) -> bool:
        """Whether no more partitions should come: the means are used up, and there is one, or it is hard to find."""
        self._asked += 1
        return self.effort.over and (bool(self.looked) or self._asked > _MOST_ASKED)

    def _tell(self) -> None:
        if self._progress is not None:
            self._progress(Progress(self.effort.spent, self.value, self.bound))

    def _open(self) -> Iterator[Looked]:
        for looked in self.looked:
            if self.value is None or looked.bound < self.value:
                yield looked

    def _partitions(self, shape: Problem) -> PartitionsByBound[Looked]:
        """Return the partitions under a placement, which have a turn in the order of their bounds."""

        def judge(layers: tuple[Ints, ...]) -> tuple[int, Looked] | None:
            try:
                looked = self.asked(layers, stage_problem(self.model, layers, shape))
            except InputError:  # a rank has no memory for a single micro-batch
                return None
            return looked.bound, looked

        times = MakespanBounds(self.model, shape.owner_rank, shape.ranks, shape.microbatches)
        self.linearized |= times.cuts.linearized
        return PartitionsByBound(times, judge, seconds=self.effort.left / 20, workers=self.effort.threads)

    def _solve(self, looked: Looked, share: float, cutoff: int | None) -> bool:
        """Search the schedules of a partition, below a cutoff where there is one; return whether the best is better."""
        seconds = share * self.effort.time_limit
        effort = self.effort.part(min(1.0, seconds / self.effort.left) if self.effort.left else 0.0)
        within = None if cutoff is None else cutoff - 1
        found = solve(looked.problem, effort=effort, within=within, hints=_hints(looked), progress=self._inner)
        if found.bound is not None and found.bound > looked.bound:
            looked.bound, looked.evidence = found.bound, found.evidence
        if found.status is Status.INFEASIBLE and cutoff is not None:
            looked.bound = max(looked.bound, cutoff)
        if found.value is not None and (looked.value is None or found.value < looked.value):
            looked.solution = found
        better = looked.value is not None and (self.value is None or looked.value < self.value)
        self.best = looked if better else self.best
        return better

    def _inner(self, now: Progress) -> None:
        """Tell of a better schedule in the midst of a search."""
        if self._progress is not None and now.value is not None and (self.value is None or now.value < self.value):
            self._progress(Progress(self.effort.spent, now.value, min(self.bound, now.value)))


def _hints(looked: Looked) -> list[Hint]:
    """Return the best that is known of a partition, and the schedules of the families; some may break its limits."""
    problem, own = looked.problem, looked.solution
    if own is not None and own.schedule is not None:
        return [hint_of(own.schedule, own.starts)]
    timelines = [simulate(family.generate(problem), problem) for family in families() if family.suits(problem)]
    return [hint_of(known.schedule, (row.tolist() for row in known.starts)) for known in timelines]


def solution_of(looked: Looked) -> Solution:
    """Return what is known of a partition at the end: its best schedule, with the highest bound of all searches."""
    found = looked.solution
    if found is None or found.value is None:
        reason = "no schedule was found" if found is None else found.reason
        return Solution(Status.UNKNOWN, bound=looked.bound, evidence=looked.evidence, reason=reason)
    bound = min(looked.bound, found.value)
    proved = bound == found.value
    return dataclasses.replace(
        found,
        status=Status.OPTIMAL if proved else Status.FEASIBLE,
        bound=bound,
        evidence=looked.evidence,
        reason="" if proved else found.reason,
    )
