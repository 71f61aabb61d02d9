"""Partitions one after another, those first that could be best: in the order of a bound that is valid for each.

Best first over the partitions' beginnings (:class:`~schedverify.partition.least_times.Begun`): the one with the least
bound is made longer by a stage, until a whole partition has the least bound of all. No partition is made before its
turn has come, so that most never are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from typing import Generic, NamedTuple, TypeVar

from schedverify.partition.least_times import Begun, LeastTimes

Ints = tuple[int, ...]
T = TypeVar("T")


class Whole(NamedTuple, Generic[T]):
    """A whole partition: its placement (by position among those that are tried), layers, bound, and what was judged."""

    placement: int
    layers: tuple[Ints, ...]
    bound: int
    judged: T


class ByBound(Generic[T]):
    """The partitions under several placements in the order of their bounds.

    Parameters
    ----------
    placements
        Bounds under each placement.
    judge
        Called with the placement and the layers of a whole partition when its turn comes: returns a bound of its own,
        which may be higher, and anything to go with it; None where the partition cannot be.
    """

    def __init__(
        self,
        placements: Sequence[LeastTimes],
        judge: Callable[[int, tuple[Ints, ...]], tuple[int, T] | None],
    ) -> None:
        self._placements, self._judge, self._order = placements, judge, count()
        self._heap: list[tuple[int, int, int, int, Begun | Whole[T]]] = []
        for number, placement in enumerate(placements):
            if root := placement.root():
                self._push(number, root, 0)

    @property
    def least(self) -> int | None:
        """Ticks that none of the partitions to come can go below; None where none is left."""
        return self._heap[0][0] if self._heap else None

    def below(self, most: Callable[[], int | None], over: Callable[[], bool]) -> Iterator[Whole[T]]:
        """Yield the partitions with a bound below ``most()`` (None: all), those with the least first, until ``over()``.

        ``most`` may fall between two of them; what is not below it is forgotten.
        """
        while self._heap and not over():
            limit = most()
            if limit is not None and self._heap[0][0] >= limit:
                self._heap.clear()
                return
            _, _, _, number, item = heapq.heappop(self._heap)
            if isinstance(item, Whole):
                yield item
            else:
                self._open(number, item, limit)

    def _open(self, number: int, begun: Begun, limit: int | None) -> None:
        placement = self._placements[number]
        if len(begun.cuts) <= placement.stages:
            for longer in placement.longer(begun):
                if limit is None or longer.bound < limit:
                    self._push(number, longer, len(longer.cuts))
            return
        layers = tuple(placement.cuts.layers_between(first, last) for first, last in pairwise(begun.cuts))
        judged = self._judge(number, layers)
        if judged is not None and (limit is None or judged[0] < limit):
            self._push(number, Whole(number, layers, max(begun.bound, judged[0]), judged[1]), placement.stages + 2)

    def _push(self, number: int, item: Begun | Whole[T], depth: int) -> None:
        heapq.heappush(self._heap, (item.bound, -depth, next(self._order), number, item))
