"""Which ranks wait for which where a compute order stops: it is run as far as it goes, whatever the durations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from schedverify.core.op import Op
from schedverify.simulator.csr_graph import Precedence, merged
from schedverify.verifier.graph import needs
from schedverify.verifier.occurrences import Occurrences, Place

if TYPE_CHECKING:
    import networkx as nx


class Wait(NamedTuple):
    """A rank that stands still: where, before which step, and for what on which rank."""

    rank: int
    position: int
    step: str
    target: int
    awaited: str

    def __str__(self) -> str:
        return f"rank {self.rank} waits at position {self.position} ({self.step}) for {self.awaited}"


class UntimedRun:
    """The steps of a schedule, merged where they run as one, and how far they come.

    Attributes
    ----------
    blocked_at
        By rank, the position of the first step that cannot run, or None where all did.
    """

    def __init__(self, occurrences: Occurrences) -> None:
        self.occurrences = occurrences
        self._merge()
        edges = [(before, node) for node, places in enumerate(self.members) for before in self._before(places)]
        ends = np.array(edges, dtype=np.int64).reshape(-1, 2)
        self.blocked = Precedence(len(self.members), ends[:, 0], ends[:, 1]).blocked.tolist()
        self.blocked_at = [self._first_blocked(rank) for rank in range(len(occurrences.steps))]

    def cycles(self) -> list[list[Wait]]:
        """Return, for every group of ranks that wait for one another, a cycle of waits with the fewest ranks."""
        import networkx as nx

        waits = nx.MultiDiGraph()
        for rank, position in enumerate(self.blocked_at):
            if position is not None:
                waits.add_edges_from((rank, wait.target, {"wait": wait}) for wait in self._waits(rank, position))
        return shortest_cycles(waits)

    def blocked_ranks(self) -> list[int]:
        """Return the ranks that do not come to their end."""
        return [rank for rank, position in enumerate(self.blocked_at) if position is not None]

    def _merge(self) -> None:
        """Number the steps; those that hold one operation's main instance get one number."""
        places = [(rank, position) for rank, row in enumerate(self.occurrences.steps) for position in range(len(row))]
        number = {place: index for index, place in enumerate(places)}
        main = self.occurrences.main.values()
        lowest = merged(len(places), [(number[first], number[other]) for first, *more in main for other in more])
        nodes = np.unique(lowest, return_inverse=True)[1].tolist()
        self.node = dict(zip(places, nodes, strict=True))
        self.members: list[list[Place]] = [[] for _ in set(nodes)]
        for place, node in self.node.items():
            self.members[node].append(place)

    def _before(self, places: list[Place]) -> set[int]:
        """Return the numbers of the steps that must be done before those at ``places``, which run as one."""
        before = {self.node[rank, position - 1] for rank, position in places if position}
        for rank, position in places:
            for op in self.occurrences.steps[rank][position]:
                before.update(self.node[place] for need in self._inputs(op) for place in self._main(need)[:1])
        return before

    def _inputs(self, op: Op) -> list[Op]:
        return [need.op for need in needs(self.occurrences.problem, op)]

    def _main(self, op: Op) -> tuple[Place, ...]:
        return self.occurrences.main.get(op, ())

    def _first_blocked(self, rank: int) -> int | None:
        positions = range(len(self.occurrences.steps[rank]))
        return next((position for position in positions if self.blocked[self.node[rank, position]]), None)

    def _waits(self, rank: int, position: int) -> list[Wait]:
        """Return what the step at which a rank stands still waits for: its inputs, and whoever runs it as well."""
        step = str(self.occurrences.schedule.step(rank, position))
        waits = []
        for member in self.members[self.node[rank, position]]:
            for need, place in self._missing_inputs(member):
                awaited = _awaited(need, place, (rank, position), member)
                waits.append(Wait(rank, position, step, place[0], awaited))
            if member != (rank, position) and self.blocked_at[member[0]] != member[1]:
                awaited = f"rank {member[0]} to reach it at position {member[1]}"
                waits.append(Wait(rank, position, step, member[0], awaited))
        return waits

    def _missing_inputs(self, place: Place) -> list[tuple[Op, Place]]:
        """Return the inputs of the step at a place that are not made, each with where it would be."""
        ops = self.occurrences.steps[place[0]][place[1]]
        sources = [(need, source) for op in ops for need in self._inputs(op) for source in self._main(need)]
        return [(need, source) for need, source in sources if self.blocked[self.node[source]]]


def _awaited(need: Op, place: Place, waiting: Place, reader: Place) -> str:
    """Say what is awaited, where it stands if behind, and who of those that run the step as one reads it."""
    partner = "" if reader == waiting else f", without which rank {reader[0]} cannot start its part"
    if place == waiting:
        return f"{need}, a part of the same step{partner}"
    behind = f", which stands behind it at position {place[1]}" if place[0] == waiting[0] else ""
    return f"{need}{behind}{partner}"


def shortest_cycles(waits: nx.MultiDiGraph) -> list[list[Wait]]:
    """Return for every group of nodes that reach one another a cycle with the fewest, from its lowest node.

    Each edge has its ``wait``; of parallel ones the first counts.
    """
    import networkx as nx

    groups = [group for group in nx.strongly_connected_components(waits) if _cyclic(waits, group)]
    return [_shortest(waits.subgraph(group)) for group in sorted(groups, key=min)]


def _cyclic(waits: nx.MultiDiGraph, group: set[Any]) -> bool:
    return len(group) > 1 or any(waits.has_edge(node, node) for node in group)


def _shortest(waits: nx.MultiDiGraph) -> list[Wait]:
    import networkx as nx

    best: list[Any] = []
    for rank in sorted(waits):
        if waits.has_edge(rank, rank):
            best = [rank]
            break
        back = nx.single_target_shortest_path(waits, rank)
        paths = [back[follower] for follower in sorted(waits.successors(rank)) if follower in back]
        shortest: list[Any] = min(paths, key=len, default=[])
        if shortest and (not best or len(shortest) < len(best)):
            best = [rank, *shortest[:-1]]
    first = best.index(min(best))
    cycle = best[first:] + best[:first]
    return [waits.edges[a, b, 0]["wait"] for a, b in zip(cycle, [*cycle[1:], cycle[0]], strict=True)]
