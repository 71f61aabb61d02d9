"""Moves single layers over the cuts of a chain, as long as that makes a partition better."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, pairwise

from schedverify.partitioner.account import Layers


def improved(
    layers: Layers, other: Layers, cost: Callable[[Layers], int | None], over: Callable[[], bool] = lambda: False
) -> Layers:
    """Return the partition that costs least of those on the way, a layer moved at a time, until it is ``over()``.

    Parameters
    ----------
    layers
        The partition to begin with.
    other
        Another one, to go on from where it costs less.
    cost
        Called with a partition; None where it is none to go to.
    """
    best, least = layers, cost(layers)
    moves: Iterator[Layers] = iter([other])
    better = True
    while better:
        better = False
        for moved in chain(moves, _moves(best)):
            if over():
                return best
            found = cost(moved)
            if found is not None and (least is None or found < least):
                best, least, better = moved, found, True
    return best


def _moves(layers: Layers) -> Iterator[Layers]:
    """Yield the partitions in which one layer goes to the stage beside its own."""
    for stage, (own, beside) in enumerate(pairwise(layers)):
        if len(own) > 1:
            yield (*layers[:stage], own[:-1], (own[-1], *beside), *layers[stage + 2 :])
        if len(beside) > 1:
            yield (*layers[:stage], (*own, beside[0]), beside[1:], *layers[stage + 2 :])
