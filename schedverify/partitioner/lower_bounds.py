"""What a step must take at least under a partition of which only the first stages are known.

The formulas are those of :mod:`schedverify.optimizer.bounds.formulas`, on a chain of stages with ``M`` micro-batches;
``F`` is a stage's forward in ticks, ``G`` the least op that makes its input's gradient, ``A`` its least whole backward,
and a lag is the transfer over a boundary. Of its bounds on the makespan these are taken:

- *pair* of stage 0 and a stage ``t``: ``F_0 + A_0 + sum of (F + G) over 1..t-1 + both lags of each boundary on the way
  + M (F_t + G_t)``;
- *load* of a rank: ``head + M * sum of (F + A) over its stages + tail``, both of its first stage, the least ones;
- *idle* of a rank, without its limits: before the head of a later stage it runs nothing but the F of those before, so
  ``head + M * (sum of (F + A) over its stages - sum of F over those before)``.

Each is a maximum over stages of what the stages before it add to the time of the stage itself. So the least that the
stages behind a cut can come to does not depend on the stages before it, and dynamic programming over (stage, cut) finds
it exactly, backwards from the last stage, once for *pair* and once for *load*::

    cuts       0 ------- begin ------- end ------------------------- last
    stages     known     |  stage s    |  stages s+1 ...
    ticks      round trip to here      |
                         own(s)        = M times what the stage takes
                         adds(s) + lag + behind[s+1][end]
    behind[s][begin] = least over end of max(own(s), adds(s) + lag + behind[s+1][end])

``behind[s]`` has shape (cuts,): NEVER where the stages from ``s`` on cannot begin at the cut and take all that is left.

With several stages on a rank their loads add up; then CP-SAT says what the busiest rank has at least in any partition,
and what is left for the layers that no stage has yet is their average over the ranks that can still take some.

Sums over layers stand for a stage's ``G = min(B, I)`` and ``A = min(B, I + W)``: of each layer the lesser is taken,
which is never more. A stage that holds more than its rank has, even with one micro-batch in flight, is left out.
"""

from __future__ import annotations

import dataclasses
import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedverify.core.ending import OverError
from schedverify.core.model import Layer, Model
from schedverify.optimizer.effort import Effort
from schedverify.partitioner.account import one_of_each
from schedverify.partitioner.cp_sat import MOST_PAIRED, PartitionModel
from schedverify.partitioner.cuts import NEVER, Ints, Numbers, cuts_of, possible_stages
from schedverify.partitioner.requirements import requirements_of
from schedverify.partitioner.sums import check_sums


class PartialPartition(NamedTuple):
    """The first stages of a partition, and what follows from them.

    Attributes
    ----------
    cuts
        The cuts at which the stages begin and end, 0 first: one more than there are stages.
    bound
        Ticks that no schedule of any partition that begins so can go below.
    round_trip, one_way
        Ticks of the way to the next stage and back, and of the way there alone.
    loads, forwards
        By rank, ``F + A`` and ``F`` of its stages for one micro-batch, in ticks.
    heads
        By rank, the ticks before its first work, and in a fused problem behind its last; None before its first stage.
    squares
        Sum of the squares of the stages' ``F + A``: the less of it, the more even the partition.
    """

    cuts: Ints
    bound: int
    round_trip: int
    one_way: int
    loads: Ints
    forwards: Ints
    heads: tuple[int | None, ...]
    squares: int


class MakespanBounds:
    """Lower bounds on the makespan of every partition of a model under one placement.

    Raises
    ------
    InputError
        If model, ranks and stages do not go together.
    UnsupportedError
        If all steps together take more than 2^60 ticks.
    """

    def __init__(self, model: Model, placement: Ints, ranks: int, microbatches: int) -> None:
        check_sums(model, len(placement), microbatches)
        self.model, self.placement, self.ranks, self.count = model, placement, ranks, microbatches
        self.cuts = cuts_of(model, MOST_PAIRED)
        self.requirements = requirements_of(model, self.cuts, placement, one_of_each(placement, ranks))
        self.several = len(set(placement)) < len(placement)
        self._possible_stages = possible_stages(self.cuts, self.requirements.alone)
        self._round_trip_behind, self._one_way_behind = self._least_behind(back=True), self._least_behind(back=False)

    @property
    def stages(self) -> int:
        """How many stages there are."""
        return len(self.placement)

    def root(self, effort: Effort | None = None) -> PartialPartition | None:
        """Return the partition of which no stage is known; None where there is none at all.

        ``effort`` is the solver's, which is called where a rank has several stages; a second of one thread by default.
        """
        least = max(int(behind[0][0]) for behind in (self._round_trip_behind, self._one_way_behind))
        if least >= NEVER:
            return None
        if self.several:
            load = self._least_load(effort or Effort(1, workers=1))
            if load is None:
                return None
            least = max(least, self.count * load)
        nothing = (0,) * self.ranks
        return self._averaged(PartialPartition((0,), least, 0, 0, nothing, nothing, (None,) * self.ranks, 0))

    def longer(self, partial: PartialPartition) -> list[PartialPartition]:
        """Return what a partial partition can be with one stage more, without what cannot be completed."""
        stage, begin = len(partial.cuts) - 1, partial.cuts[-1]
        rank = self.placement[stage]
        ticks, lag = self._ticks(stage, begin), self._lag(stage)
        passing = ticks.passing(stage)
        round_trip = partial.round_trip + passing + 2 * lag
        one_way = partial.one_way + ticks.forward + lag
        head = self._head(partial, rank)
        start = max(head, partial.one_way - self.count * partial.forwards[rank])
        load = partial.loads[rank] + ticks.whole
        own = np.maximum(partial.round_trip + self.count * passing, start + self.count * load)
        behind = np.maximum(round_trip + self._round_trip_behind[stage + 1], one_way + self._one_way_behind[stage + 1])
        ends = np.flatnonzero(self._may_end(stage, begin) & (self._round_trip_behind[stage + 1] < NEVER))
        heads = (*partial.heads[:rank], head, *partial.heads[rank + 1 :])
        made = []
        for end in ends.tolist():
            cuts, work = (*partial.cuts, end), int(ticks.whole[end])
            bound = max(partial.bound, int(own[end]), int(behind[end]))
            ways = int(round_trip[end]), int(one_way[end])
            loads = _increased(partial.loads, rank, work)
            forwards = _increased(partial.forwards, rank, int(ticks.forward[end]))
            longer = PartialPartition(cuts, bound, *ways, loads, forwards, heads, partial.squares + work**2)
            made.append(self._averaged(longer))
        return made

    def unevenness(self, partial: PartialPartition) -> int:
        """Return the least sum of squares that the stages of a partition that begins so can have.

        It is least where what is left is equal on all stages that are left.
        """
        left = self.stages + 1 - len(partial.cuts)
        rest = int(self._prefix.whole[-1] - self._prefix.whole[partial.cuts[-1]])
        return partial.squares + (rest**2 // left if left else 0)

    def _head(self, partial: PartialPartition, rank: int) -> int:
        """Return the ticks before a rank's first work (and behind its last), which may be the next stage's."""
        known = partial.heads[rank]
        if known is not None:
            return known
        return partial.one_way if self.model.split else partial.round_trip

    def _least_load(self, effort: Effort) -> int | None:
        """Return a bound on the ticks of the busiest rank for one micro-batch; None where no partition fits."""
        work = [_ticks_of(layer, self.model.split)[2] for layer in self.model.layers]
        requirements = dataclasses.replace(self.requirements, bandwidth=None)
        ceiling = sum(work) * max(requirements.slowness)
        try:
            return PartitionModel(
                self.model, self.cuts, requirements, ceiling, work=work, effort=effort
            ).least_bottleneck()
        except OverError:
            return 0

    def _averaged(self, partial: PartialPartition) -> PartialPartition:
        """Raise the bound to what follows from the layers without a stage, spread over the ranks with stages to come.

        Only where a rank has several stages. Every rank ``r`` of them has ``T >= head + M (load + slowness * x)`` for
        the work ``x`` that it still gets (by *load* or *idle*, whichever is more), and these sum up to all that is
        left; with ``v = 1 / slowness``: ``T * sum v >= sum v (head + M load) + M * left``.
        """
        remaining = set(self.placement[len(partial.cuts) - 1 :])
        if not remaining or not self.several:
            return partial
        common = math.lcm(*self.requirements.slowness)
        speed = {rank: common // self.requirements.slowness[self.placement.index(rank)] for rank in remaining}
        total = self.count * common * int(self._prefix.whole[-1] - self._prefix.whole[partial.cuts[-1]])
        for rank in remaining:
            start = max(self._head(partial, rank), partial.one_way - self.count * partial.forwards[rank])
            total += speed[rank] * (self.count * partial.loads[rank] + start)
        return partial._replace(bound=max(partial.bound, -(-total // sum(speed.values()))))

    def _least_behind(self, *, back: bool) -> list[Numbers]:
        """Return by stage, one more than there are, the least ticks of it and those behind it, each of shape (cuts,).

        They are counted from where the stage begins, which is at the cut of the index, by *pair* where the way past a
        stage is there and ``back``, else by *load*; the module's picture has the recursion.
        """
        tables = [np.where(np.arange(len(self.cuts)) == len(self.cuts) - 1, np.int64(0), NEVER)]
        for stage in reversed(range(self.stages)):
            least = np.full(len(self.cuts), NEVER)
            behind, lag = tables[-1], (2 if back else 1) * self._lag(stage)
            for begin in range(len(self.cuts)):
                ticks = self._ticks(stage, begin)
                adds = ticks.passing(stage) if back else ticks.forward
                own = self.count * (adds if back else ticks.whole)
                may_end = self._may_end(stage, begin) & (behind < NEVER)
                least[begin] = np.min(np.maximum(own, adds + lag + behind), where=may_end, initial=NEVER)
            tables.append(least)
        return tables[::-1]

    def _ticks(self, stage: int, begin: int) -> _PrefixTicks:
        """Return what a stage takes that begins at ``begin``, by the cut at which it ends."""
        slow = self.requirements.slowness[stage]
        return _PrefixTicks(*(slow * (prefix - prefix[begin]) for prefix in self._prefix))

    def _lag(self, stage: int) -> Numbers:
        """Return the ticks of a transfer to the next stage by the cut between them, shape (cuts,)."""
        if stage == self.stages - 1 or self.placement[stage] == self.placement[stage + 1]:
            return np.zeros(len(self.cuts), dtype=np.int64)
        devices, sizes = self.model.devices, self.cuts.crossing
        return devices.latency + (-(-sizes // devices.bandwidth) if devices.bandwidth else np.zeros_like(sizes))

    @cached_property
    def _prefix(self) -> _PrefixTicks:
        """What the layers before each cut take on a rank of slowness 1."""
        columns = np.array([_ticks_of(layer, self.model.split) for layer in self.model.layers], dtype=np.int64)
        if self.cuts.members is not None:
            return _PrefixTicks(*(self.cuts.members @ column for column in columns.T))
        return _PrefixTicks(*(np.concatenate(([0], np.cumsum(column))) for column in columns.T))

    def _may_end(self, stage: int, begin: int) -> NDArray[np.bool_]:
        """Return whether a stage that begins at ``begin`` may end at each cut, shape (cuts,)."""
        may_end: NDArray[np.bool_] = self._possible_stages[begin] & self.requirements.allowed[stage]
        if self.requirements.capacity is not None:
            held = self.requirements.bytes_from(self.cuts, stage, begin)
            may_end &= held <= self.requirements.capacity[stage]
        return may_end


class _PrefixTicks(NamedTuple):
    """Ticks of layers by cut, each of shape (cuts,).

    Attributes
    ----------
    forward
        F.
    round_trip
        F and G, the least op that makes the gradient for the stage before.
    whole
        F and A, the least whole backward.
    """

    forward: Numbers
    round_trip: Numbers
    whole: Numbers

    def passing(self, stage: int) -> Numbers:
        """Return the ticks of the way past a stage and back; behind stage 0 there is nobody to send a gradient to."""
        return self.round_trip if stage else self.whole


def _increased(values: Ints, place: int, more: int) -> Ints:
    """Return the values with that at one place increased."""
    return (*values[:place], values[place] + more, *values[place + 1 :])


def _ticks_of(layer: Layer, split: bool) -> tuple[int, int, int]:
    """Return F, F + G and F + A of a layer, in ticks."""
    gradient = backward = layer.backward
    if split:
        gradient = min(gradient, layer.backward_input or 0)
        backward = min(backward, (layer.backward_input or 0) + (layer.backward_weight or 0))
    return layer.forward, layer.forward + gradient, layer.forward + backward
