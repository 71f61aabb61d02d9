"""The cut of a set-up: of those that fit, the one with the shortest step.

Where there are few cuts all are looked at, in the order of a bound on their steps; where there are many, a few good
ones, and whether one fits at all is decided exactly.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from typing import Final, NamedTuple

import numpy as np

from schedverify.core.model import Model
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Timeline
from schedverify.partitioner import account, least_bottleneck
from schedverify.partitioner.account import Layers, Moments, lacking
from schedverify.partitioner.cuts import Numbers, cuts_of
from schedverify.partitioner.equal_layers import EqualLayers
from schedverify.partitioner.stage_problem import even_split, stage_problem, without_capacity
from schedverify.simulator.engine import simulate

MOST_CUTS: Final = 3500
"""The most cuts of which all are looked at: those of 14 layers (12 between embedding and head), for any stages."""


class Pipeline(NamedTuple):
    """The ranks of a set-up, and what they run.

    Attributes
    ----------
    shape
        A problem with the ranks, placement and micro-batches; its costs are not looked at.
    schedule
        The order that the ranks run in.
    moments
        By rank, what it holds when that is most.
    """

    shape: Problem
    schedule: Schedule
    moments: Moments

    def peaks(self, model: Model, layers: Layers) -> list[int]:
        """Return by rank the most bytes that it holds under a cut."""
        return account.peaks_of(model, layers, self.shape.owner_rank, self.moments)

    def counts(self, model: Model) -> EqualLayers:
        """Return the cuts by how many of the equal layers each stage has."""
        return EqualLayers(model, self.shape.stages_of, self.moments)

    def timeline(self, model: Model, layers: Layers) -> Timeline:
        """Return when everything runs under a cut, without limits."""
        return simulate(self.schedule, stage_problem(without_capacity(model), layers, self.shape))


class Choice(NamedTuple):
    """The cut with the shortest step of those that fit.

    Attributes
    ----------
    layers
        By stage, the positions of its layers.
    timeline
        When everything runs.
    step
        Ticks of the pipeline, and of what comes behind it.
    """

    layers: Layers
    timeline: Timeline
    step: int


def best_cut(model: Model, pipeline: Pipeline, behind: Callable[[Layers], int]) -> Choice | None:
    """Return the cut with the shortest step of those that fit; None where none fits, or none was found.

    Parameters
    ----------
    behind
        Called with a cut: returns the ticks that come behind the pipeline.
    """
    best: Choice | None = None
    for least, layers in _candidates(model, pipeline):
        if best is not None and least >= best.step:
            break
        if lacking(pipeline.peaks(model, layers), model.devices.memory):
            continue
        after = behind(layers)
        if best is not None and least + after >= best.step:
            continue
        timeline = pipeline.timeline(model, layers)
        if best is None or timeline.makespan + after < best.step:
            best = Choice(layers, timeline, timeline.makespan + after)
    return best


def _candidates(model: Model, pipeline: Pipeline) -> Iterator[tuple[int, Layers]]:
    """Yield cuts and ticks that their pipelines cannot go below, in rising order of these: all, or a few good ones.

    The few are as many layers on each stage, the least busy rank within the memory, which says whether any cut fits,
    and with several stages a rank the least of the largest stage.
    """
    stages = pipeline.shape.stages
    count = len(model.layers)
    if math.comb(count - 1, stages - 1) <= MOST_CUTS:
        yield from _all_cuts(model, pipeline)
        return
    few = [even_split(model, stages)]
    if stages > pipeline.shape.ranks:
        apart = tuple(range(stages))
        few.append(least_bottleneck(without_capacity(model), apart, account.one_of_each(apart, stages)).layers)
    few += [layers] if (layers := pipeline.counts(model).least_bottleneck()) else []
    yield from ((0, layers) for layers in dict.fromkeys(few))


def _all_cuts(model: Model, pipeline: Pipeline) -> Iterator[tuple[int, Layers]]:
    stages, count = pipeline.shape.stages, len(model.layers)
    ends = np.array([(0, *inner, count) for inner in combinations(range(1, count), stages - 1)], dtype=np.int64)
    least = _least_makespans(model, pipeline, ends)
    for place in np.argsort(least, kind="stable").tolist():
        yield int(least[place]), tuple(tuple(range(*pair)) for pair in pairwise(ends[place].tolist()))


def _least_makespans(model: Model, pipeline: Pipeline, ends: Numbers) -> Numbers:
    """Return by cut the ticks that its pipeline cannot go below, shape (cuts,); ends have shape (cuts, stages + 1).

    A rank begins when a micro-batch has come through all stages before its first one, and what follows its last
    backward is the way back through them; between the two it has all its work.
    """
    shape, cuts = pipeline.shape, cuts_of(model)
    work = np.diff(cuts.work[ends], axis=1)
    lag = np.full(ends[:, 1:].shape, model.devices.latency)
    if model.devices.bandwidth is not None:
        lag = lag - -cuts.crossing[ends[:, 1:]] // model.devices.bandwidth
    way = np.cumsum(work + 2 * lag, axis=1)
    loads = [shape.microbatches * work[:, list(stages)].sum(axis=1) for stages in shape.stages_of]
    before = [way[:, stages[0] - 1] if stages[0] else 0 for stages in shape.stages_of]
    least: Numbers = np.max([load + first for load, first in zip(loads, before, strict=True)], axis=0)
    return least
