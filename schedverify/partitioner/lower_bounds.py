"""What a step must take at least under a partition of which only the first stages are known.

The words are those of :mod:`schedverify.optimizer.bounds.formulas`, on a chain of stages with ``M`` micro-batches. Of
its bounds on the makespan these are taken:

- *pair* of stage 0 and a stage ``t``: ``F_0 + A_0 + sum of (F + G) over 1..t-1 + both lags of each boundary on the way
  + M (F_t + G_t)``;
- *load* of a rank: ``head + M * sum of (F + A) over its stages + tail``, both of its first stage, the least ones;
- *idle* of a rank, without its limits: before the head of a later stage it runs nothing but the F of those before, so
  ``head + M * (sum of (F + A) over its stages - sum of F over those before)``.

Each is a maximum over stages of what the stages before it add to what the stage itself takes. So the least that the
stages behind a cut can come to does not depend on the stages before it, and dynamic programming over (stage, cut) finds
it exactly, for each of the two with a stage at a time. With several stages on a rank their loads add up; then CP-SAT
says what the busiest rank has at least in any partition, and what is left for the layers that no stage has yet is their
average over the ranks that can still take some.

Sums over layers stand for a stage's ``G = min(B, I)`` and ``A = min(B, I + W)``: of each layer the lesser is taken,
which is never more. Wherever a stage would hold more than its rank has, even with one micro-batch, it may not be.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedverify.core.errors import Fault, UnsupportedError
from schedverify.core.model import Layer, Model
from schedverify.partitioner.chain_dp import NEVER
from schedverify.partitioner.cp_sat import MOST_PAIRED, ByRank, stage_pairs
from schedverify.partitioner.cuts import Numbers, cuts_of
from schedverify.partitioner.requirements import demands_of

Ints = tuple[int, ...]
MOST_TICKS: Final = 1 << 60


class Begun(NamedTuple):
    """The first stages of a partition, and what follows from them.

    Attributes
    ----------
    cuts
        Where the stages begin and end, 0 first.
    bound
        Ticks that no schedule of any partition that begins so can go below.
    turning, forward
        Ticks of the way to the next stage: there and back, and there alone.
    loads, forwards
        By rank, ``F + A`` and ``F`` of its stages for one micro-batch.
    ways
        By rank, the ticks before its first work, and in a fused problem behind its last; None before its first stage.
    uneven
        Sum of the squares of the stages' ``F + A``: of two beginnings with one bound the more even one comes first.
    """

    cuts: Ints
    bound: int
    turning: int
    forward: int
    loads: Ints
    forwards: Ints
    ways: tuple[int | None, ...]
    uneven: int


class LeastTimes:
    """Lower bounds on the makespan of every partition of a model under one placement.

    Raises
    ------
    InputError
        If model, ranks and stages do not go together.
    UnsupportedError
        If all steps together take more than 2^60 ticks.
    """

    def __init__(self, model: Model, placement: Ints, ranks: int, microbatches: int) -> None:
        states = tuple(((1,) * placement.count(rank),) for rank in range(ranks))
        self.model, self.placement, self.ranks, self.count = model, placement, ranks, microbatches
        self.cuts = cuts_of(model, MOST_PAIRED)
        self.demands = demands_of(model, self.cuts, placement, ranks, states)
        self.several = len(set(placement)) < len(placement)
        self._check_size()

    @property
    def stages(self) -> int:
        """How many stages there are."""
        return len(self.placement)

    def root(self, seconds: float = 1, workers: int = 1) -> Begun | None:
        """Return the partition of which no stage is known; None where there is none at all.

        ``seconds`` and ``workers`` are the solver's, which is asked where a rank has several stages.
        """
        least = max(int(table[0][0]) for table in (self._turning, self._forward))
        if least >= NEVER:
            return None
        if self.several:
            load = self._least_load(seconds, workers)
            if load is None:
                return None
            least = max(least, self.count * load)
        root = Begun((0,), least, 0, 0, *((0,) * self.ranks,) * 2, (None,) * self.ranks, 0)
        return root._replace(bound=max(least, self._average(root))) if self.several else root

    def longer(self, begun: Begun) -> list[Begun]:
        """Return a partition's beginnings with one stage more, without those that cannot be brought to an end."""
        stage, begin = len(begun.cuts) - 1, begun.cuts[-1]
        rank = self.placement[stage]
        takes = self._ticks(stage, begin)
        lag = self._lag(stage)
        turning = begun.turning + (takes.whole if stage == 0 else takes.turning) + 2 * lag
        forward = begun.forward + takes.forward + lag
        way = begun.ways[rank]
        way = (begun.forward if self.model.split else begun.turning) if way is None else way
        way_here = max(way, begun.forward - self.count * begun.forwards[rank])
        own = np.maximum(
            begun.turning + self.count * (takes.whole if stage == 0 else takes.turning),
            way_here + self.count * (begun.loads[rank] + takes.whole),
        )
        behind = np.maximum(turning + self._turning[stage + 1], forward + self._forward[stage + 1])
        ends = np.flatnonzero(self._may(stage, begin) & (self._turning[stage + 1] < NEVER))
        ways = (*begun.ways[:rank], way, *begun.ways[rank + 1 :])
        made = []
        for end in ends.tolist():
            work = int(takes.whole[end])
            loads = _added(begun.loads, rank, work)
            forwards = _added(begun.forwards, rank, int(takes.forward[end]))
            bound, uneven = max(begun.bound, int(own[end]), int(behind[end])), begun.uneven + work**2
            longer = Begun(
                (*begun.cuts, end), bound, int(turning[end]), int(forward[end]), loads, forwards, ways, uneven
            )
            made.append(longer._replace(bound=max(bound, self._average(longer))) if self.several else longer)
        return made

    def uneven(self, begun: Begun) -> int:
        """Return the least sum of squares that the stages of a partition that begins so can have."""
        left = self.stages + 1 - len(begun.cuts)
        rest = int(self._sums.whole[-1] - self._sums.whole[begun.cuts[-1]])
        return begun.uneven + (rest**2 // left if left else 0)

    def _least_load(self, seconds: float, workers: int) -> int | None:
        """Return what the busiest rank has at least for one micro-batch; None where no partition fits."""
        cuts = dataclasses.replace(self.cuts, work=self._sums.whole)
        demands = dataclasses.replace(self.demands, bandwidth=None)
        return ByRank(cuts, demands, int(cuts.work[-1]) * max(demands.slowness)).least(seconds, workers)

    def _average(self, begun: Begun) -> int:
        """Return what follows from the layers that no stage has yet, spread over the ranks whose stages are to come.

        Every rank ``r`` of them has ``T >= way + M (load + slowness * x)`` for the work ``x`` that it still gets (by
        *load* or *idle*, whichever is more), and these sum up to all that is left; with ``v = 1 / slowness``:
        ``T * sum v >= sum v (way + M load) + M * left``.
        """
        coming = set(self.placement[len(begun.cuts) - 1 :])
        if not coming:
            return 0
        before = begun.forward if self.model.split else begun.turning
        common = math.lcm(*self.demands.slowness)
        share = {rank: common // self.demands.slowness[self.placement.index(rank)] for rank in coming}
        total = self.count * common * int(self._sums.whole[-1] - self._sums.whole[begun.cuts[-1]])
        for rank in coming:
            known = begun.ways[rank]
            way = max(before if known is None else known, begun.forward - self.count * begun.forwards[rank])
            total += share[rank] * (self.count * begun.loads[rank] + way)
        return -(-total // sum(share.values()))

    @cached_property
    def _turning(self) -> list[Numbers]:
        return self._least_behind("turning", 2)

    @cached_property
    def _forward(self) -> list[Numbers]:
        return self._least_behind("forward", 1)

    def _least_behind(self, way: str, lags: int) -> list[Numbers]:
        """Return by stage (and behind the last) and cut at which it begins the least that follows, from there on.

        That is the least over the cuts behind it of the greatest of the stages' own bounds, counted from where the
        first of them begins; ``way`` and ``lags`` say what each adds for those behind it.
        """
        tables = [np.where(np.arange(len(self.cuts)) == len(self.cuts) - 1, np.int64(0), NEVER)]
        for stage in reversed(range(self.stages)):
            least = np.full(len(self.cuts), NEVER)
            behind, lag = tables[-1], lags * self._lag(stage)
            for begin in range(len(self.cuts)):
                takes = self._ticks(stage, begin)
                adds = takes.whole if stage == 0 and way == "turning" else getattr(takes, way)
                own = self.count * (takes.turning if stage and way == "turning" else takes.whole)
                value = np.maximum(own, adds + lag + behind)
                may = self._may(stage, begin) & (behind < NEVER)
                least[begin] = np.min(value, where=may, initial=NEVER)
            tables.append(least)
        return tables[::-1]

    def _ticks(self, stage: int, begin: int) -> _Sums:
        """Return by cut what a stage takes that begins at ``begin`` and ends there."""
        slow = self.demands.slowness[stage]
        return _Sums(*(slow * (sums - sums[begin]) for sums in self._sums))

    def _lag(self, stage: int) -> Numbers:
        """Return by cut the ticks of a transfer from a stage that ends there to the next one."""
        if stage == self.stages - 1 or self.placement[stage] == self.placement[stage + 1]:
            return np.zeros(len(self.cuts), dtype=np.int64)
        devices, sizes = self.model.devices, self.cuts.crossing
        return devices.latency + (-(-sizes // devices.bandwidth) if devices.bandwidth else np.zeros_like(sizes))

    @cached_property
    def _sums(self) -> _Sums:
        """What the layers before each cut take on a rank of slowness 1."""
        columns = np.array([_ticks_of(layer, self.model.split) for layer in self.model.layers], dtype=np.int64)
        if self.cuts.members is not None:
            return _Sums(*(self.cuts.members @ column for column in columns.T))
        return _Sums(*(np.concatenate(([0], np.cumsum(column))) for column in columns.T))

    def _may(self, stage: int, begin: int) -> NDArray[np.bool_]:
        """Return by cut whether a stage that begins at ``begin`` may end there."""
        may: NDArray[np.bool_] = self._spans[begin] & self.demands.allowed[stage]
        if self.demands.capacity is None:
            return may
        held = self.cuts.resident + self.cuts.activation
        may &= held - held[begin] <= self.demands.capacity[stage]
        return may

    @cached_property
    def _spans(self) -> NDArray[np.bool_]:
        """By begin and end, whether the layers between them can be a stage at all."""
        size = len(self.cuts)
        if self.cuts.members is not None:
            spans = np.zeros((size, size), dtype=np.bool_)
            spans[tuple(zip(*stage_pairs(self.cuts.members, self.demands.alone), strict=True))] = True
            return spans
        spans = ~np.tri(size, dtype=np.bool_)
        for layer in self.demands.alone:
            lone = spans[layer, layer + 1]
            spans[: layer + 1, layer + 1 :] = False
            spans[layer, layer + 1] = lone
        return spans

    def _check_size(self) -> None:
        slowest, links = max(self.demands.slowness), 2 * self.stages * int(self._lag(0).max() if self.stages > 1 else 0)
        if self.count * slowest * sum(layer.work for layer in self.model.layers) + links > MOST_TICKS:
            raise UnsupportedError(Fault("layer", "all steps together take more than 2^60 ticks", "use a coarser tick"))


class _Sums(NamedTuple):
    """By cut: F; F and the least gradient op; F and the least whole backward."""

    forward: Numbers
    turning: Numbers
    whole: Numbers


def _added(values: Ints, place: int, more: int) -> Ints:
    return (*values[:place], values[place] + more, *values[place + 1 :])


def _ticks_of(layer: Layer, split: bool) -> tuple[int, int, int]:
    gradient = backward = layer.backward
    if split:
        gradient = min(gradient, layer.backward_input or 0)
        backward = min(backward, (layer.backward_input or 0) + (layer.backward_weight or 0))
    return layer.forward, layer.forward + gradient, layer.forward + backward
