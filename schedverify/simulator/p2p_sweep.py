"""Sweeps over a lowered schedule in which what computes first on a rank waits: for its span."""

from __future__ import annotations

import numpy as np

from schedverify.core.schedule import IntArray
from schedverify.simulator.csr_graph import Precedence
from schedverify.simulator.p2p_program import LoweredProgram
from schedverify.simulator.span import Windows


class LoweredSweep:
    """What waits for what in one batch, and which events are the first and last that compute on each rank.

    Parameters
    ----------
    graph, lag
        The events and what each edge between them adds, in ticks.
    """

    def __init__(self, program: LoweredProgram, graph: Precedence, lag: IntArray) -> None:
        self.graph, self.lag, self.ranks = graph, lag, program.problem.ranks
        steps = np.flatnonzero(program.computes)
        ranks, nodes, ticks = (part[steps].tolist() for part in (program.step_rank, program.node, program.duration))
        self.last = {rank: (node, cost) for rank, node, cost in zip(ranks, nodes, ticks, strict=True)}
        self.first = dict(zip(reversed(ranks), reversed(nodes), strict=True))

    def windows(self, release: list[int]) -> Windows:
        """Return the windows where what computes first on each rank starts no earlier than its ``release``."""
        begin: dict[int, int] = {}
        for rank, node in self.first.items():
            begin[node] = max(begin.get(node, 0), release[rank])
        return self.windows_of(*self.graph.longest_paths(self.lag, begin), release)

    def windows_of(self, start: IntArray, origin: IntArray, release: list[int]) -> Windows:
        """Return the windows that starts imply; of ranks that begin in one event, the one that it waits for counts.

        A path may begin at a wait for a send that does not stand before it (SV301, SV303): it is taken to begin where
        the rank itself begins.
        """
        rank_of = {self.first[rank]: rank for rank in sorted(self.first, key=release.__getitem__)}
        windows = Windows([0] * self.ranks, [0] * self.ranks, [-1] * self.ranks)
        for rank, (node, ticks) in self.last.items():
            windows.first[rank], windows.last[rank] = int(start[self.first[rank]]), int(start[node]) + ticks
            windows.origin[rank] = rank_of.get(int(origin[node]), rank)
        return windows
