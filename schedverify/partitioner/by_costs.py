"""The best partition for a family whose order follows the costs of the stages: what ranks hold follows from the cut.

Where there are few partitions, each is tried in turn, the best first. Where there are many, that which has to hold a
single micro-batch is the best that can be, and that which has room for the most that the family may hold fits for
certain; between the two it stays open.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from itertools import islice, pairwise
from typing import Final

import numpy as np

from schedverify.core.errors import Fault, InfeasibleError, UndecidedError
from schedverify.core.model import Model
from schedverify.optimizer.effort import Effort
from schedverify.partitioner.account import Ints, Layers, Moment, Moments, lacking, one_of_each, usage_of
from schedverify.partitioner.bottleneck import Partition, least_bottleneck, memory_error
from schedverify.partitioner.cuts import Cuts, cuts_of, possible_stages
from schedverify.partitioner.requirements import requirements_of

MOST_PARTITIONS: Final = 20_000
"""The most partitions that are tried one by one, and the most beginnings of partitions on the way to them."""
MOST_CUTS: Final = 2000
"""The most cuts between which all partitions are looked for."""


def least_by_costs(
    model: Model,
    placement: Ints,
    ranks: int,
    peaks: Callable[[Layers], list[int]],
    *,
    most: int,
    effort: Effort,
) -> Partition:
    """Return the partition with the least bottleneck of those that fit, as ``least_bottleneck`` does.

    Parameters
    ----------
    peaks
        Called with a partition: returns by rank the bytes that the family's schedule holds.
    most
        Micro-batches that a rank holds at most of each of its stages.

    Raises
    ------
    InputError, InfeasibleError, UndecidedError
        As in :func:`~schedverify.partitioner.bottleneck.least_bottleneck`.
    """
    cuts = cuts_of(model)
    every = _every(model, cuts, placement, ranks)
    tried = None if every is None else _first_that_fits(model, placement, every, peaks, effort)
    if tried is None:
        return _between(model, placement, ranks, peaks, most, effort)
    layers, lacks = tried
    if lacks:
        raise memory_error(model, len(placement), peaks(layers))
    bottleneck, _, crossing = usage_of(model, layers, placement)
    return Partition(layers, bottleneck, crossing, cuts.linearized)


def _first_that_fits(
    model: Model, placement: Ints, every: list[Layers], peaks: Callable[[Layers], list[int]], effort: Effort
) -> tuple[Layers, int] | None:
    """Return the best partition that fits and 0, or the one that lacks least and how much; None where time is up."""
    usages = {layers: usage_of(model, layers, placement) for layers in every}
    nearest: tuple[Layers, int] | None = None
    for layers in sorted(every, key=lambda layers: (usages[layers], layers)):
        lacks = lacking(peaks(layers), model.devices.memory)
        if nearest is None or lacks < nearest[1]:
            nearest = layers, lacks
        if not lacks:
            break
        if effort.over:
            return None
    return nearest


def _between(
    model: Model,
    placement: Ints,
    ranks: int,
    peaks: Callable[[Layers], list[int]],
    most: int,
    effort: Effort,
) -> Partition:
    """Return a partition that fits, and whether none can be better, where there are too many to try each."""
    search = partial(least_bottleneck, model, placement, effort=effort)
    best = search(one_of_each(placement, ranks))
    if not lacking(peaks(best.layers), model.devices.memory):
        return best
    counts = [placement.count(rank) for rank in range(ranks)]
    fullest: Moments = tuple((Moment((most,) * count, (0,) * count),) for count in counts)
    try:
        found = search(fullest)
    except InfeasibleError:
        text = f"no cut into {len(placement)} stages that fits was found, nor a proof that there is none"
        hint = "more memory, or a family whose order does not follow the costs"
        raise UndecidedError(Fault("devices.memory", text, hint)) from None
    return found._replace(proved=best.proved and found.bottleneck == best.bottleneck)


def _every(model: Model, cuts: Cuts, placement: Ints, ranks: int) -> list[Layers] | None:
    """Return every partition that keeps the wishes, or None where there are too many, or none at all."""
    requirements = requirements_of(model, cuts, placement, one_of_each(placement, ranks))
    if len(cuts) > MOST_CUTS:
        return None
    possible = possible_stages(cuts, requirements.alone)
    beginnings: list[Ints] = [(0,)]
    for stage in range(requirements.stages):
        longer = (
            (*chosen, end)
            for chosen in beginnings
            for end in np.flatnonzero(possible[chosen[-1]] & requirements.allowed[stage]).tolist()
        )
        beginnings = list(islice(longer, MOST_PARTITIONS + 1))
        if len(beginnings) > MOST_PARTITIONS:
            return None
    return [tuple(cuts.layers_between(*pair) for pair in pairwise(chosen)) for chosen in beginnings] or None
