"""Partitions one after another, those first that could be best: in the order of a bound that is valid for each.

Best first over partial partitions (:class:`~schedverify.partitioner.lower_bounds.PartialPartition`): the one with the
least bound gets one more stage, until a whole partition has the least bound of all. No partition is made before its
turn has come, so that most never are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from typing import Final, Generic, NamedTuple, TypeVar

from schedverify.optimizer.effort import Effort
from schedverify.partitioner.cuts import Ints
from schedverify.partitioner.lower_bounds import MakespanBounds, PartialPartition

T = TypeVar("T")
PATIENCE: Final = 500
"""Partial partitions that are extended without a whole one coming out, before one is completed out of turn."""


class CompletePartition(NamedTuple, Generic[T]):
    """A whole partition: by stage its layers, a bound on its makespan in ticks, and what ``judge`` returned with it."""

    layers: tuple[Ints, ...]
    bound: int
    judged: T


class PartitionsByBound(Generic[T]):
    """The partitions under a placement in the order of their bounds.

    Parameters
    ----------
    bounds
        Lower bounds on the makespan of all partitions that begin alike.
    judge
        Called with the layers of a whole partition when its turn comes: returns a bound of its own, which may be
        higher, and a value that goes with it; None where the partition is impossible.
    effort
        For the solver, which is called once where there are several stages on a rank.
    """

    def __init__(
        self,
        bounds: MakespanBounds,
        judge: Callable[[tuple[Ints, ...]], tuple[int, T] | None],
        effort: Effort | None = None,
    ) -> None:
        self._bounds, self._judge, self._order = bounds, judge, count()
        self._heap: list[tuple[int, int, int, int, PartialPartition | CompletePartition[T]]] = []
        if root := bounds.root(effort):
            self._push(root, root)

    @property
    def least(self) -> int | None:
        """Ticks that none of the partitions still to come can go below; None where none is left."""
        return self._heap[0][0] if self._heap else None

    def below(self, most: Callable[[], int | None], over: Callable[[], bool]) -> Iterator[CompletePartition[T]]:
        """Yield the partitions with a bound below ``most()`` (None: all), those with the least first, until ``over()``.

        ``most`` may fall between two of them; what is not below it is forgotten. Where none comes for a long time, one
        is yielded out of turn, and again in its turn: the partial partition with the least bound, completed as well as
        can be.
        """
        extended = 0
        while self._heap and not over():
            limit = most()
            if limit is not None and self._heap[0][0] >= limit:
                self._heap.clear()
                return
            *_, item = heapq.heappop(self._heap)
            if isinstance(item, CompletePartition):
                extended = 0
                yield item
                continue
            self._extend(item, limit)
            extended += 1
            if extended % PATIENCE == 0 and (whole := self._completed(item, limit)):
                yield whole

    def _extend(self, partial: PartialPartition, limit: int | None) -> None:
        """Queue what a partial partition can be with one stage more, or itself where it has all stages."""
        if len(partial.cuts) <= self._bounds.stages:
            for longer in self._bounds.longer(partial):
                if limit is None or longer.bound < limit:
                    self._push(longer, longer)
        elif whole := self._judged(partial, limit):
            self._push(partial, whole)

    def _completed(self, partial: PartialPartition, limit: int | None) -> CompletePartition[T] | None:
        """Add the stage with the least bound, of those the most even one, until the partition is whole."""
        while len(partial.cuts) <= self._bounds.stages:
            longer = self._bounds.longer(partial)
            if not longer:
                return None
            partial = min(longer, key=lambda option: (option.bound, self._bounds.unevenness(option)))
        return self._judged(partial, limit)

    def _judged(self, partial: PartialPartition, limit: int | None) -> CompletePartition[T] | None:
        """Have a whole partition judged; None where it is impossible, or its bound is not below the limit."""
        layers = tuple(self._bounds.cuts.layers_between(first, last) for first, last in pairwise(partial.cuts))
        judged = self._judge(layers)
        if judged is None:
            return None
        bound = max(partial.bound, judged[0])
        return CompletePartition(layers, bound, judged[1]) if limit is None or bound < limit else None

    def _push(self, partial: PartialPartition, item: PartialPartition | CompletePartition[T]) -> None:
        """Queue an item: the least bound comes first, of those the longest, of those the most even."""
        depth = len(partial.cuts) + isinstance(item, CompletePartition)
        heapq.heappush(self._heap, (item.bound, -depth, self._bounds.unevenness(partial), next(self._order), item))
