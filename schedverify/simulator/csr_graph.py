"""Directed graphs over numbered nodes: what can happen before what, longest paths, and groups of nodes that are one.

Edges are arrays of their two ends. To walk them they are sorted by the first end (compressed sparse rows, CSR):

.. code-block:: text

    before   0  2  0  1              the edges 0 -> 1, 2 -> 1, 0 -> 3, 1 -> 3
    after    1  1  3  3

    begins   0  2  3  4  4           the edges of node n are targets[begins[n]:begins[n + 1]]
    targets  1  3 | 3 | 1 |          of node 0, of 1, of 2; node 3 has none

Each loop stands here twice: as a plain loop, and compiled in :mod:`schedverify.simulator.kernels` for graphs from
:data:`LARGE` nodes on.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from functools import cached_property
from typing import Self

import numpy as np

from schedverify.core.problem.numbers import LARGEST
from schedverify.core.schedule import Flags, IntArray

LARGE = 100_000
"""From so many operations or events on compiled loops pay; below, loading the compiler takes longer than the loop."""


def is_large(size: int) -> bool:
    """Whether so many operations or events are for the compiled loops of :mod:`schedverify.simulator.kernels`."""
    return size >= LARGE


class Precedence:
    """Nodes, numbered from 0, and edges from what must happen to what waits for it.

    Parameters
    ----------
    count
        How many nodes there are.
    before, after
        The two ends of each edge, shape (edges,).
    """

    def __init__(self, count: int, before: IntArray, after: IntArray) -> None:
        self.count, self.before, self.after = count, before, after

    @property
    def blocked(self) -> Flags:
        """By node, whether it can never happen, being on a cycle or behind one; shape (count,)."""
        return self._walked[0]

    @property
    def order(self) -> IntArray:
        """The nodes that can happen, in an order in which they can: the certificate, where it holds them all."""
        return self._walked[1]

    @cached_property
    def successors(self) -> tuple[IntArray, IntArray]:
        """Where the nodes that wait for each node begin in an array, shape (count + 1,), and that array."""
        begins = np.append(0, np.cumsum(np.bincount(self.before, minlength=self.count)))
        return begins, self.after[self._by_first_end]

    def longest_paths(self, lag: IntArray, release: Mapping[int, int]) -> tuple[IntArray, IntArray]:
        """Return by node how long the longest path to it is, and at which node this begins; of blocked ones anything.

        Parameters
        ----------
        lag
            Shape (edges,), in the order of ``before`` and ``after``: what each edge adds.
        release
            Nodes at which paths begin, with what these count already; others begin, at 0, where nothing leads to.
        """
        begins, targets = self.successors
        lags, origin = lag[self._by_first_end], np.arange(self.count)
        length = np.where(np.bincount(self.after, minlength=self.count) > 0, -1, 0)
        if max(release.values(), default=0) >= LARGEST:  # sums could pass 64 bits
            length, lags = length.astype(object), lags.astype(object)
        length[list(release)] = list(release.values())
        if not is_large(self.count) or length.dtype == object:
            walked = _longest(*(part.tolist() for part in (begins, targets, lags, self.order, length, origin)))
            return np.array(walked[0], dtype=length.dtype), np.array(walked[1])
        from schedverify.simulator import kernels

        kernels.longest(begins, targets, lags, self.order, length, origin)
        return length, origin

    def restricted(self, chosen: Flags) -> Self:
        """Return the graph of the same nodes with only the edges that are marked; shape (edges,)."""
        part = copy(self)
        for name in ("_walked", "_by_first_end", "successors"):
            part.__dict__.pop(name, None)
        part.before, part.after = self.before[chosen], self.after[chosen]
        return part

    @cached_property
    def _by_first_end(self) -> IntArray:
        """The edges, sorted by their first ends."""
        return np.argsort(self.before, kind="stable")

    @cached_property
    def _walked(self) -> tuple[Flags, IntArray]:
        """Let happen what can, until nothing is left that can."""
        begins, targets = self.successors
        missing = np.bincount(self.after, minlength=self.count)
        if not is_large(self.count):
            return _walk(begins.tolist(), targets.tolist(), missing.tolist())
        from schedverify.simulator import kernels

        order = kernels.happening(begins, targets, missing)
        return missing > 0, order


def _walk(begins: list[int], targets: list[int], missing: list[int]) -> tuple[Flags, IntArray]:
    """Do what the kernel does: count down what each node still waits for; at none, it happens."""
    order = [node for node, count in enumerate(missing) if not count]
    for node in order:
        for target in targets[begins[node] : begins[node + 1]]:
            missing[target] -= 1
            if not missing[target]:
                order.append(target)
    return np.array(missing, dtype=np.int64) > 0, np.array(order, dtype=np.int64)


def _longest(
    begins: list[int], targets: list[int], lags: list[int], order: list[int], length: list[int], origin: list[int]
) -> tuple[list[int], list[int]]:
    """Do what the kernel does, with numbers of any size."""
    for node in order:
        reached, first, last = length[node], begins[node], begins[node + 1]
        for target, ticks in zip(targets[first:last], lags[first:last], strict=True):
            arrival = reached + ticks
            if arrival > length[target]:
                length[target], origin[target] = arrival, origin[node]
    return length, origin


def merged(count: int, pairs: list[tuple[int, int]]) -> IntArray:
    """Return for each of ``count`` nodes the lowest of its group; the two of each pair are in one group.

    ``parent`` is a forest in which each node points at a lower one of its group, or is the lowest and points at itself:

    .. code-block:: text

        pairs (1, 3), (3, 4)       node     0  1  2  3  4
                                   parent   0  1  2  1  1      two groups of one, and 1, 3 and 4
    """
    parent = list(range(count))

    def lowest(node: int) -> int:
        while parent[node] != node:
            parent[node] = node = parent[parent[node]]  # halves the way for whoever comes next
        return node

    for one, other in pairs:
        low, high = sorted((lowest(one), lowest(other)))
        parent[high] = low
    return np.array([lowest(node) for node in range(count)], dtype=np.int64)
