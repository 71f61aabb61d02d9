"""The longest ways through a directed graph without cycles."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedverify.simulator.scale import is_large

Ints = NDArray[np.int64]


def longest(tail: Ints, head: Ints, lag: Ints, count: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Return the length of the longest way to each of ``count`` nodes, and which are on a cycle or behind one.

    Every edge is looked at once.
    """
    order = np.argsort(tail, kind="stable")
    begins = np.append(0, np.cumsum(np.bincount(tail, minlength=count)))
    edges = Outgoing(begins, head[order], lag[order])
    waits = np.bincount(head, minlength=count)
    if not is_large(count):
        return _walk(edges, waits.tolist())
    from schedverify.simulator import kernels

    length = kernels.longest(*edges, waits)
    return length, waits > 0


class Outgoing(NamedTuple):
    """The edges of node n: ``targets[begins[n]:begins[n + 1]]``, each with its lag."""

    begins: Ints
    targets: Ints
    lags: Ints


def _walk(edges: Outgoing, waits: list[int]) -> tuple[Ints, NDArray[np.bool_]]:
    """Do what the kernel does."""
    begins, targets, lags = (values.tolist() for values in edges)
    length = [0] * len(waits)
    ready = [node for node, left in enumerate(waits) if not left]
    while ready:
        node = ready.pop()
        now = length[node]
        first, last = begins[node], begins[node + 1]
        for target, ticks in zip(targets[first:last], lags[first:last], strict=True):
            there = now + ticks
            if there > length[target]:  # noqa: PLR1730 - max() takes a third longer
                length[target] = there
            waits[target] -= 1
            if not waits[target]:
                ready.append(target)
    return np.array(length, dtype=np.int64), np.array(waits, dtype=np.int64) > 0
