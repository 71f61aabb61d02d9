"""Cuts of models whose layers between the first and the last are all equal: of each stage only their number counts.

What ranks hold then hangs together by one sum alone, that of the numbers. So ranks are looked at one by one: how many
layers fit on each, which constraint programming says of its few stages, and how to deal all of them out, one after
another to the rank that takes it most easily. As what a rank takes and holds never falls with one layer more, the rank
that ends with the most has as little as can be.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable
from functools import lru_cache
from itertools import accumulate, pairwise
from typing import Any

from schedverify.core.model import Layer, Model
from schedverify.partitioner.account import Ints, Layers, Moments


class EqualLayers:
    """The cuts of such a model into the stages of a pipeline, on ranks of equal memory.

    No layer but the first and the last have a weight in common.

    Parameters
    ----------
    stages_of
        By rank, its stages in rising order; every rank has one.
    moments
        By rank, what it holds when that is most.
    """

    def __init__(self, model: Model, stages_of: tuple[Ints, ...], moments: Moments) -> None:
        self.layers, self.stages_of, self.moments = model.layers, stages_of, moments
        self.room = model.devices.memory[0] if model.devices.memory else None
        self.stages = sum(map(len, stages_of))
        self.equal, self.tied = len(model.layers) - 2, model.tied_weights
        self.fixed: list[list[Layer]] = [[] for _ in range(self.stages)]
        self.fixed[0].append(model.layers[0])
        self.fixed[-1].append(model.layers[-1])
        self._fewest_bytes = lru_cache(maxsize=None)(self._least_bytes)

    def least_bottleneck(self) -> Layers | None:
        """Return a cut whose busiest rank has the least to do of all that fit; None where none fits.

        On each rank the largest stage is as small as can be.
        """
        most = [self._most(rank) for rank in range(len(self.stages_of))]

        def load(rank: int, count: int) -> int | None:
            work = sum(layer.work for stage in self.stages_of[rank] for layer in self.fixed[stage])
            return work + count * self.layers[1].work if count <= most[rank] else None

        dealt = self._dealt(load)
        if dealt is None:
            return None
        return self._cut([self._evenest(rank, count) for rank, count in enumerate(dealt)])

    def nearest(self) -> Layers:
        """Return a cut whose fullest rank holds the least of all."""
        dealt = self._dealt(lambda rank, count: self._fewest_bytes(rank, count)[0] if count <= self.equal else None)
        return self._cut([self._fewest_bytes(rank, count)[1] for rank, count in enumerate(dealt or ())])

    def _dealt(self, cost: Callable[[int, int], int | None]) -> list[int] | None:
        """Return how many equal layers each rank gets, so that the greatest cost is the least; None where none can be.

        Parameters
        ----------
        cost
            Of a rank with so many equal layers; None where they are too many. Never falls with one layer more.
        """
        dealt = [sum(map(self._fewest, stages)) for stages in self.stages_of]
        if any(cost(rank, count) is None for rank, count in enumerate(dealt)):
            return None
        queue = [(after, rank) for rank, count in enumerate(dealt) if (after := cost(rank, count + 1)) is not None]
        heapq.heapify(queue)
        for _ in range(self.equal - sum(dealt)):
            if not queue:
                return None
            _, rank = heapq.heappop(queue)
            dealt[rank] += 1
            if (after := cost(rank, dealt[rank] + 1)) is not None:
                heapq.heappush(queue, (after, rank))
        return dealt

    def _fewest(self, stage: int) -> int:
        """Return how many equal layers a stage has at least: one, where it has no other layer."""
        return 0 if self.fixed[stage] else 1

    def _most(self, rank: int) -> int:
        """Return how many equal layers fit on a rank at most; -1 where the fewest do not."""
        if self.room is None:
            return self.equal
        return sum(found) if (found := self._solve(rank, self.room, None, lambda counts: -sum(counts))) else -1

    def _evenest(self, rank: int, count: int) -> Ints:
        """Return by stage of a rank how many of so many equal layers it has, the largest stage the smallest."""

        def works(counts: list[Any]) -> list[Any]:
            own = zip(counts, self.stages_of[rank], strict=True)
            return [
                number * self.layers[1].work + sum(layer.work for layer in self.fixed[stage]) for number, stage in own
            ]

        return self._solve(rank, self.room, count, works) or ()

    def _least_bytes(self, rank: int, count: int) -> tuple[int, Ints]:
        """Return the least bytes that a rank holds with so many equal layers, and how many each of its stages has."""
        found = self._solve(rank, None, count, lambda counts: self._bytes(rank, counts)) or ()
        return max(self._bytes(rank, list(found))), found

    def _bytes(self, rank: int, counts: list[Any]) -> list[Any]:
        """Return the bytes that a rank holds at each of its moments."""
        held = []
        stages, equal = self.stages_of[rank], self.layers[1]
        ends = {i for i, stage in ((0, 0), (len(self.layers) - 1, self.stages - 1)) if stage in stages}
        for moment in self.moments[rank]:
            total: Any = -sum(weight.resident for weight in self.tied if ends.issuperset(weight.layers))
            for place, (stage, number) in enumerate(zip(stages, counts, strict=True)):
                total += _held(equal, moment.in_flight[place], moment.waiting[place]) * number
                total += sum(_held(x, moment.in_flight[place], moment.waiting[place]) for x in self.fixed[stage])
            held.append(total)
        return held

    def _solve(self, rank: int, room: int | None, total: int | None, goals: Callable[[list[Any]], Any]) -> Ints | None:
        """Return by stage of a rank how many equal layers it has; None where that cannot be.

        Parameters
        ----------
        room
            Bytes that the rank has; None for no limit.
        total
            Layers of all its stages; None leaves it open.
        goals
            Called with the numbers: returns what is to be small, or several of which the largest is.
        """
        from ortools.sat.python import cp_model

        from schedverify.optimizer.solvers.cp_sat import new_solver, solve  # loads the whole optimizer

        model = cp_model.CpModel()
        counts: list[Any] = [
            model.new_int_var(self._fewest(stage), max(self.equal, 1), "") for stage in self.stages_of[rank]
        ]
        if total is not None:
            model.add(sum(counts) == total)
        for held in self._bytes(rank, counts) if room is not None else ():
            model.add(held <= room)
        goal = goals(counts)
        if isinstance(goal, list):
            largest = model.new_int_var(0, 1 << 60, "")
            for each in goal:
                model.add(each <= largest)
            goal = largest
        model.minimize(goal)
        solver = new_solver(60, 1)
        if solve(solver, model, lambda: False) != "OPTIMAL":
            return None
        return tuple(solver.value(count) for count in counts)

    def _cut(self, counts: list[Ints]) -> Layers:
        """Return the cut in which each stage of each rank has so many equal layers."""
        sizes = [len(fixed) for fixed in self.fixed]
        for stages, numbers in zip(self.stages_of, counts, strict=True):
            for stage, number in zip(stages, numbers, strict=True):
                sizes[stage] += number
        return tuple(tuple(range(*ends)) for ends in pairwise((0, *accumulate(sizes))))


def _held(layer: Layer, in_flight: int, waiting: int) -> int:
    return layer.resident + in_flight * layer.activation + waiting * layer.weight_stash
