"""The longest ways through a directed graph without cycles."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ints = NDArray[np.int64]


def longest(tail: Ints, head: Ints, lag: Ints, count: int) -> tuple[Ints, NDArray[np.bool_]]:
    """Return the length of the longest way to each of ``count`` nodes, and which are on a cycle or behind one.

    Every edge is looked at once.
    """
    order = np.argsort(tail, kind="stable")
    begins = np.searchsorted(tail[order], np.arange(count + 1)).tolist()
    targets, lags = head[order].tolist(), lag[order].tolist()
    waits = np.bincount(head, minlength=count).tolist()
    length = [0] * count
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
