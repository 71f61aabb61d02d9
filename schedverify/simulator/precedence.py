"""What must happen before what, as arrays of edges, and how far it can happen: the first topological order, or none."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from schedverify.simulator.scale import is_large

Ints = NDArray[np.int64]


class Precedence:
    """Nodes, numbered from 0, and edges from what must happen to what waits for it.

    Parameters
    ----------
    count
        How many nodes there are.
    before, after
        The two ends of each edge.
    """

    def __init__(self, count: int, before: Ints, after: Ints) -> None:
        self.count, self.before, self.after = count, before, after

    @property
    def stuck(self) -> NDArray[np.bool_]:
        """Mark the nodes that can never happen: those on a cycle or behind one."""
        return self._run[0]

    @property
    def order(self) -> Ints:
        """The nodes that can happen, in an order in which they can: the certificate, where it holds them all."""
        return self._run[1]

    @cached_property
    def successors(self) -> tuple[Ints, Ints]:
        """Where the nodes that wait for each node begin in an array, and that array."""
        begins = np.append(0, np.cumsum(np.bincount(self.before, minlength=self.count)))
        return begins, self.after[np.argsort(self.before, kind="stable")]

    @cached_property
    def _run(self) -> tuple[NDArray[np.bool_], Ints]:
        """Let happen what can, until nothing is left that can."""
        begins, targets = self.successors
        left = np.bincount(self.after, minlength=self.count)
        if not is_large(self.count):
            return _walk(begins.tolist(), targets.tolist(), left.tolist())
        from schedverify.simulator import kernels

        order = kernels.happening(begins, targets, left)
        return left > 0, order


def _walk(begins: list[int], targets: list[int], left: list[int]) -> tuple[NDArray[np.bool_], Ints]:
    """Do what the kernel does."""
    order = [node for node, waits in enumerate(left) if not waits]
    for node in order:
        for target in targets[begins[node] : begins[node + 1]]:
            left[target] -= 1
            if not left[target]:
                order.append(target)
    return np.array(left, dtype=np.int64) > 0, np.array(order, dtype=np.int64)
