"""Sweeps over a lowered schedule in which what computes first on a rank waits: for its span."""

from __future__ import annotations

import numpy as np

from schedverify.core.schedule import IntArray
from schedverify.simulator.csr_graph import Precedence
from schedverify.simulator.p2p_program import LoweredProgram
from schedverify.simulator.span import RankWindows


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
        waited_for = np.bincount(graph.after, minlength=graph.count) > 0
        self.idle = np.flatnonzero(program.waits & ~waited_for[: len(program.waits)]).tolist()

    def windows(self, release: list[int]) -> RankWindows:
        """Return the windows where what computes first on each rank starts no earlier than its ``release``."""
        return self.windows_of(*self.paths(release), release)

    def paths(self, release: list[int]) -> tuple[IntArray, IntArray]:
        """Return by node when it starts, and what computes first on a rank and leads there by a longest path.

        A wait at the head of a rank's order, for a send that does not stand before it, holds nobody up: no path begins
        there, though it starts at tick 0.
        """
        begin = dict.fromkeys(self.idle, -1)
        for rank, node in self.first.items():
            begin[node] = max(begin.get(node, 0), release[rank])
        start, origin = self.graph.longest_paths(self.lag, begin)
        return np.maximum(start, 0), origin

    def windows_of(self, start: IntArray, origin: IntArray, release: list[int]) -> RankWindows:
        """Return the windows that starts imply; of ranks that begin in one event, the one that it waits for counts."""
        rank_of = {self.first[rank]: rank for rank in sorted(self.first, key=release.__getitem__)}
        windows = RankWindows([0] * self.ranks, [0] * self.ranks, [-1] * self.ranks)
        for rank, (node, ticks) in self.last.items():
            windows.first[rank], windows.last[rank] = int(start[self.first[rank]]), int(start[node]) + ticks
            windows.origin[rank] = rank_of[int(origin[node])]
        return windows
