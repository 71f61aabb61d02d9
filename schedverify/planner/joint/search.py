"""Searches partitions in the order of their bounds, each by the optimizer with the best makespan so far as cutoff."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from schedverify.core.ending import OverError, checked
from schedverify.core.errors import InputError
from schedverify.core.model import Model
from schedverify.core.problem import Problem
from schedverify.core.problem.stage_graph import Ints
from schedverify.core.result import Status
from schedverify.generators import families
from schedverify.optimizer import Effort, Hint, Progress, Solution, hint_of, solve
from schedverify.optimizer.bounds.formulas import best_bound
from schedverify.partitioner.best_first import PartitionsByBound
from schedverify.partitioner.lower_bounds import MakespanBounds
from schedverify.partitioner.stage_problem import stage_problem
from schedverify.planner.warm_starts import starts_of
from schedverify.simulator.engine import simulate

_TURN_SHARE: Final = 1 / 40
"""The share of the whole time that the first turn of a partition may take; each further turn takes twice as much."""
_AHEAD: Final = 8
"""How many partitions under each placement get a glance before the first of them has its turn."""
_GLANCE_SHARE: Final = 1 / 200
"""The share of the whole time that a glance may take: enough for the families' schedules and a few list schedules."""
_MOST_BEGINNINGS: Final = 2000
"""How many beginnings of partitions are judged in search of a first partition, however short the time is."""


@dataclass(eq=False)
class SearchedPartition:
    """A partition whose schedules the optimizer searches, and what is known of it so far.

    Attributes
    ----------
    layers
        By stage, the positions of its layers.
    bound, evidence
        Ticks that no schedule of this partition can go below, and what proves that.
    solution
        The best schedule so far; None where none was found yet.
    turns
        How many turns this partition has had in the search.
    bound_without_search
        The bound that follows from the formulas alone, in ticks.
    costs
        Durations (ticks), memory and messages (bytes) of all stages in one row: what :meth:`no_worse` compares.
    """

    layers: tuple[Ints, ...]
    problem: Problem
    bound: int
    evidence: Any
    solution: Solution | None = None
    turns: int = 0
    bound_without_search: int = field(init=False)
    costs: Ints = field(init=False)

    def __post_init__(self) -> None:
        self.bound_without_search, p = self.bound, self.problem
        self.costs = (*p.forward, *p.backward, *p.backward_input, *p.backward_weight, *p.activation, *p.weight_stash,
                      *p.static, *p.boundary_bytes)  # fmt: skip

    @property
    def placement(self) -> Ints:
        """The rank of each stage."""
        return self.problem.owner_rank

    @property
    def value(self) -> int | None:
        """The least makespan that was found, in ticks."""
        return None if self.solution is None else self.solution.value

    def no_worse(self, other: SearchedPartition) -> bool:
        """Whether every schedule of another partition is one of this, no longer and holding no more.

        So it is under one placement where no duration, transfer or memory of this is greater: starts are longest paths,
        which rise with each duration, and what a rank holds at its steps follows from its order.
        """
        return self.placement == other.placement and all(map(int.__le__, self.costs, other.costs))


class Search:
    """The partitions of a model under several placements, and the best schedule of any of them.

    Parameters
    ----------
    shapes
        Problems with the ranks, placement and micro-batches; their costs are not looked at.

    Attributes
    ----------
    partitions
        Those that the optimizer has been given, in that order.
    streams
        By placement, the partitions that are still to come, in the order of their bounds.
    best
        The partition with the shortest schedule so far.
    """

    def __init__(
        self, model: Model, shapes: Sequence[Problem], effort: Effort, progress: Callable[[Progress], None] | None
    ) -> None:
        self.model, self.shapes, self.effort, self._progress = model, shapes, effort, progress
        self.partitions: list[SearchedPartition] = []
        self._beginnings = 0
        self.linearized = False
        self.best: SearchedPartition | None = None
        self.streams = {shape.owner_rank: self._partitions(shape) for shape in shapes}

    @property
    def value(self) -> int | None:
        """The least makespan so far, in ticks."""
        return None if self.best is None else self.best.value

    def shorter(self, ticks: int) -> bool:
        """Whether so many ticks are fewer than the best makespan so far, if there is any."""
        return self.value is None or ticks < self.value

    @property
    def bound(self) -> int:
        """Ticks that no schedule of any partition can go below."""
        known = [self.value, *(stream.least for stream in self.streams.values())]
        known += [partition.bound for partition in self.partitions]
        return min((bound for bound in known if bound is not None), default=0)

    def run(self) -> None:
        """Search partitions until none with a bound below the best makespan is left, or the means are used up.

        Those that come next get a glance before, so that the best is good before it is a cutoff. Those that stay open
        have their turn again once no new ones come.
        """
        streams = {key: stream.below(lambda: self.value, self._over) for key, stream in self.streams.items()}
        while True:
            for placement, stream in streams.items():
                while self._waiting(placement) < _AHEAD and (whole := next(stream, None)) is not None:
                    self._glance(whole.judged)
            if self.effort.over or not (still := list(self._open())):
                return
            self.search(min(still, key=lambda partition: (partition.turns > 0, partition.bound)))

    def not_ruled_out(self) -> Iterator[SearchedPartition]:
        """Yield the best partition, and those that the bounds without search do not rule out."""
        for partition in self.partitions:
            if partition is self.best or partition.turns or self.shorter(partition.bound_without_search):
                yield partition

    def begin(self, partition: SearchedPartition, share: float) -> None:
        """Search a first partition for a share of the time."""
        self.partitions.append(partition)
        self.search(partition, share)

    def search(self, partition: SearchedPartition, share: float | None = None) -> None:
        """Give a partition its turn: search for something shorter than the best, and then for its shortest."""
        cutoff, share = self.value, _TURN_SHARE * 2**partition.turns if share is None else share
        partition.turns += 1
        if self._solve(partition, share, cutoff) and cutoff is not None and partition.bound < (partition.value or 0):
            self._solve(partition, share, None)
        self._report()

    def _glance(self, partition: SearchedPartition) -> None:
        """Take a glance at a new partition, unless one that is known is no worse."""
        if not any(known.no_worse(partition) for known in self.partitions):
            self.partitions.append(partition)
            self._solve(partition, _GLANCE_SHARE, None)
            self._report()

    def partition_of(self, layers: tuple[Ints, ...], problem: Problem) -> SearchedPartition:
        """Return a partition to be searched, with the bound that needs no search."""
        bound = best_bound(problem, "makespan")
        return SearchedPartition(layers, problem, bound.value if bound else 0, bound and bound.evidence)

    def _waiting(self, placement: Ints) -> int:
        """Return how many open partitions under a placement have not had their turn."""
        return sum(not partition.turns and partition.placement == placement for partition in self._open())

    def _over(self) -> bool:
        """Whether no more partitions should come: the means are used up, and there is one, or it is hard to find."""
        self._beginnings += 1
        late = self.effort.too_late_for_first(known=bool(self.partitions))
        return late or (self.effort.over and self._beginnings > _MOST_BEGINNINGS)

    def _report(self) -> None:
        if self._progress is not None:
            self._progress(Progress(self.effort.spent, self.value, self.bound, self._part))

    def _open(self) -> Iterator[SearchedPartition]:
        """Return the partitions that may still have a schedule shorter than the best."""
        return (partition for partition in self.partitions if self.shorter(partition.bound))

    def _partitions(self, shape: Problem) -> PartitionsByBound[SearchedPartition]:
        """Return the partitions under a placement, which have a turn in the order of their bounds."""

        def judge(layers: tuple[Ints, ...]) -> tuple[int, SearchedPartition] | None:
            try:
                partition = self.partition_of(layers, stage_problem(self.model, layers, shape))
            except InputError:  # a rank has no memory for a single micro-batch
                return None
            return partition.bound, partition

        times = MakespanBounds(self.model, shape.owner_rank, shape.ranks, shape.microbatches)
        self.linearized |= times.cuts.linearized
        return PartitionsByBound(times, judge, self.effort.part(1 / 20))

    def _solve(self, partition: SearchedPartition, share: float, cutoff: int | None) -> bool:
        """Search the schedules of a partition; return whether it has the best of all now.

        Parameters
        ----------
        share
            Of the whole time.
        cutoff
            Only a makespan below so many ticks is searched for; None for any.
        """
        seconds = share * self.effort.time_limit
        effort = self.effort.part(min(1.0, seconds / self.effort.left) if self.effort.left else 0.0)
        within, hints = None if cutoff is None else cutoff - 1, _hints(partition, self.effort)
        found = solve(partition.problem, effort=effort, within=within, hints=hints, progress=self._report_better)
        if found.bound is not None and found.bound > partition.bound:
            partition.bound, partition.evidence = found.bound, found.evidence
        if found.status is Status.INFEASIBLE and cutoff is not None:
            partition.bound = max(partition.bound, cutoff)
        if found.value is not None and (partition.value is None or found.value <= partition.value):  # or less memory
            partition.solution = found
        better = partition.value is not None and self.shorter(partition.value)
        self.best = partition if better else self.best
        return better

    def _report_better(self, now: Progress) -> None:
        """Report a better schedule in the midst of a search."""
        if self._progress is not None and now.value is not None and self.shorter(now.value):
            self._progress(Progress(self.effort.spent, now.value, min(self.bound, now.value), self._part))

    @property
    def _part(self) -> str:
        return f"{len(self.partitions)} partitions looked at"


def _hints(partition: SearchedPartition, effort: Effort) -> list[Hint]:
    """Return the best that is known of a partition, or the schedules of the families; some may break its limits.

    Once there is one, the others are not waited for when the search is over.
    """
    problem, own = partition.problem, partition.solution
    if own is not None and own.schedule is not None:
        return [hint_of(own.schedule, own.starts)]
    hints: list[Hint] = []

    def check() -> None:
        if effort.too_late_for_first(known=bool(hints)):
            raise OverError

    with suppress(OverError):
        for family in checked((family for family in families() if family.suits(problem)), check):
            hints.append(starts_of(simulate(family.generate(problem, check), problem)))
    return hints


def solution_of(partition: SearchedPartition) -> Solution:
    """Return what is known of a partition at the end: its best schedule, with the highest bound of all searches."""
    found = partition.solution
    if found is None or found.value is None:
        reason = "no schedule was found" if found is None else found.reason
        return Solution(Status.UNKNOWN, bound=partition.bound, evidence=partition.evidence, reason=reason)
    bound = min(partition.bound, found.value)
    proved = bound == found.value
    return dataclasses.replace(
        found,
        status=Status.OPTIMAL if proved else Status.FEASIBLE,
        bound=bound,
        evidence=partition.evidence,
        reason="" if proved else found.reason,
    )
