"""Partitions one after another, those first that could be best: in the order of a bound that is valid for each.

Best first over the partitions' beginnings (:class:`~schedverify.partitioner.lower_bounds.Begun`): the one with the
least bound is made longer by a stage, until a whole partition has the least bound of all. No partition is made before
its turn has come, so that most never are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator
from itertools import count, pairwise
from typing import Final, Generic, NamedTuple, TypeVar

from schedverify.partitioner.lower_bounds import Begun, LeastTimes

Ints = tuple[int, ...]
T = TypeVar("T")
_PATIENCE: Final = 500
"""Beginnings that are made longer without a whole partition, before one is made out of turn."""


class Whole(NamedTuple, Generic[T]):
    """A whole partition: its layers, its bound, and what was judged."""

    layers: tuple[Ints, ...]
    bound: int
    judged: T


class ByBound(Generic[T]):
    """The partitions under a placement in the order of their bounds.

    Parameters
    ----------
    times
        What is known of their beginnings.
    judge
        Called with the layers of a whole partition when its turn comes: returns a bound of its own, which may be
        higher, and anything to go with it; None where the partition cannot be.
    seconds, workers
        For the solver, which is asked once where there are several stages on a rank.
    """

    def __init__(
        self,
        times: LeastTimes,
        judge: Callable[[tuple[Ints, ...]], tuple[int, T] | None],
        *,
        seconds: float = 1,
        workers: int = 1,
    ) -> None:
        self._times, self._judge, self._order = times, judge, count()
        self._heap: list[tuple[int, int, int, int, Begun | Whole[T]]] = []
        if root := times.root(seconds, workers):
            self._push(root, root)

    @property
    def least(self) -> int | None:
        """Ticks that none of the partitions to come can go below; None where none is left."""
        return self._heap[0][0] if self._heap else None

    def below(self, most: Callable[[], int | None], over: Callable[[], bool]) -> Iterator[Whole[T]]:
        """Yield the partitions with a bound below ``most()`` (None: all), those with the least first, until ``over()``.

        ``most`` may fall between two of them; what is not below it is forgotten. Where none comes for a long time, one
        is yielded out of turn, and again in its turn: the beginning with the least bound, brought to its best end.
        """
        opened = 0
        while self._heap and not over():
            limit = most()
            if limit is not None and self._heap[0][0] >= limit:
                self._heap.clear()
                return
            *_, item = heapq.heappop(self._heap)
            if isinstance(item, Whole):
                opened = 0
                yield item
                continue
            self._open(item, limit)
            opened += 1
            if opened % _PATIENCE == 0 and (whole := self._brought_to_end(item, limit)):
                yield whole

    def _open(self, begun: Begun, limit: int | None) -> None:
        if len(begun.cuts) <= self._times.stages:
            for longer in self._times.longer(begun):
                if limit is None or longer.bound < limit:
                    self._push(longer, longer)
        elif whole := self._whole(begun, limit):
            self._push(begun, whole)

    def _brought_to_end(self, begun: Begun, limit: int | None) -> Whole[T] | None:
        """Add the stage with the least bound, of those the most even one, until the partition is whole."""
        while len(begun.cuts) <= self._times.stages:
            ways = self._times.longer(begun)
            if not ways:
                return None
            begun = min(ways, key=lambda way: (way.bound, self._times.uneven(way)))
        return self._whole(begun, limit)

    def _whole(self, begun: Begun, limit: int | None) -> Whole[T] | None:
        """Have a whole partition judged; None where it cannot be, or its bound is not below the limit."""
        layers = tuple(self._times.cuts.layers_between(first, last) for first, last in pairwise(begun.cuts))
        judged = self._judge(layers)
        if judged is None:
            return None
        bound = max(begun.bound, judged[0])
        return Whole(layers, bound, judged[1]) if limit is None or bound < limit else None

    def _push(self, begun: Begun, item: Begun | Whole[T]) -> None:
        """Take the least bound first, of those the longest, of those the most even."""
        depth = len(begun.cuts) + isinstance(item, Whole)
        heapq.heappush(self._heap, (item.bound, -depth, self._times.uneven(begun), next(self._order), item))
