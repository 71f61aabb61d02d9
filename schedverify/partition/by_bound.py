"""Partitions one after another, those first that could be best: in the order of a bound that is valid for each.

Best first over the partitions' beginnings (:class:`~schedverify.partition.least_times.Begun`): the one with the least
bound is made longer by a stage, until a whole partition has the least bound of all. No partition is made before its
turn has come, so that most never are.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterator, Sequence
from itertools import count, pairwise
from typing import Final, Generic, NamedTuple, TypeVar

from schedverify.partition.least_times import Begun, LeastTimes

Ints = tuple[int, ...]
T = TypeVar("T")
_PATIENCE: Final = 500
"""Beginnings that are made longer without a whole partition, before one is made out of turn."""


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
    seconds, workers
        For the solver, which is asked once for each placement with several stages on a rank.
    """

    def __init__(
        self,
        placements: Sequence[LeastTimes],
        judge: Callable[[int, tuple[Ints, ...]], tuple[int, T] | None],
        *,
        seconds: float = 1,
        workers: int = 1,
    ) -> None:
        self._placements, self._judge, self._order = placements, judge, count()
        self._heap: list[tuple[int, int, int, int, int, Begun | Whole[T]]] = []
        for number, placement in enumerate(placements):
            if root := placement.root(seconds, workers):
                self._push(number, root, root)

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
            *_, number, item = heapq.heappop(self._heap)
            if isinstance(item, Whole):
                opened = 0
                yield item
                continue
            self._open(number, item, limit)
            opened += 1
            if opened % _PATIENCE == 0 and (whole := self._brought_to_end(number, item, limit)):
                yield whole

    def _open(self, number: int, begun: Begun, limit: int | None) -> None:
        if len(begun.cuts) <= self._placements[number].stages:
            for longer in self._placements[number].longer(begun):
                if limit is None or longer.bound < limit:
                    self._push(number, longer, longer)
        elif whole := self._whole(number, begun, limit):
            self._push(number, begun, whole)

    def _brought_to_end(self, number: int, begun: Begun, limit: int | None) -> Whole[T] | None:
        """Add the stage with the least bound, of those the most even one, until the partition is whole."""
        placement = self._placements[number]
        while len(begun.cuts) <= placement.stages:
            ways = placement.longer(begun)
            if not ways:
                return None
            begun = min(ways, key=lambda way: (way.bound, placement.uneven(way)))
        return self._whole(number, begun, limit)

    def _whole(self, number: int, begun: Begun, limit: int | None) -> Whole[T] | None:
        """Have a whole partition judged; None where it cannot be, or its bound is not below the limit."""
        cuts = self._placements[number].cuts
        layers = tuple(cuts.layers_between(first, last) for first, last in pairwise(begun.cuts))
        judged = self._judge(number, layers)
        if judged is None:
            return None
        bound = max(begun.bound, judged[0])
        return Whole(number, layers, bound, judged[1]) if limit is None or bound < limit else None

    def _push(self, number: int, begun: Begun, item: Begun | Whole[T]) -> None:
        """Take the least bound first, of those the longest, of those the most even."""
        depth, uneven = len(begun.cuts) + isinstance(item, Whole), self._placements[number].uneven(begun)
        heapq.heappush(self._heap, (item.bound, -depth, uneven, next(self._order), number, item))
