"""What must happen before what, as arrays of edges, and how far it can happen: the first topological order, or none."""

from __future__ import annotations

from functools import cached_property

import numpy as np
from numpy.typing import NDArray

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
    def order(self) -> list[int]:
        """The nodes that can happen, in an order in which they can: the certificate, where it holds them all."""
        return self._run[1]

    @cached_property
    def successors(self) -> tuple[list[int], list[int]]:
        """Where the nodes that wait for each node begin in a list, and that list."""
        order = np.argsort(self.before, kind="stable")
        begins = np.searchsorted(self.before[order], np.arange(self.count + 1))
        return begins.tolist(), self.after[order].tolist()

    @cached_property
    def _run(self) -> tuple[NDArray[np.bool_], list[int]]:
        """Let happen what can, until nothing is left that can."""
        begins, targets = self.successors
        left = np.bincount(self.after, minlength=self.count).tolist()
        order = [node for node, waits in enumerate(left) if not waits]
        for node in order:
            for target in targets[begins[node] : begins[node + 1]]:
                left[target] -= 1
                if not left[target]:
                    order.append(target)
        return np.array(left, dtype=np.int64) > 0, order
