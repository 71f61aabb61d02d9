"""Why the events of a lowered schedule cannot all happen: cycles of ranks that wait for one another, as a story."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from schedverify.core.discipline import Discipline
from schedverify.core.schedule import Schedule
from schedverify.verifier.happens_before import EventGraph
from schedverify.verifier.wait_cycles import Wait, shortest_cycles

Half = tuple[int, int]
"""An event and a rank: the rank's own part in it."""


class Head(NamedTuple):
    """A part at which a rank stands: nothing of its own rank holds it up, but its other end does.

    ``standing`` is the compute step that waits for it on the rank, where the way to it leads through one, else -1.
    """

    rank: int
    node: int
    standing: int


class Place(NamedTuple):
    """Where an event stands on a rank, and its text there."""

    position: int
    text: str


class Stalls:
    """What is stuck in an event graph, and who waits for whom.

    A part of a stuck event waits for stuck events of its own rank, if there are any; else it is a head, and waits for
    the part of another rank. Heads reach heads this way, and where anything is stuck, some reach themselves.
    """

    def __init__(self, graph: EventGraph, schedule: Schedule) -> None:
        import networkx as nx

        self.graph, self.schedule = graph, schedule
        self.before: dict[int, list[Half]] = {}
        first, second, account = graph.before, graph.after, graph.account
        both = graph.stuck[first] & graph.stuck[second]
        rows = zip(first[both].tolist(), second[both].tolist(), account[both].tolist(), strict=True)
        for node, later, rank in rows:
            self.before.setdefault(later, []).append((node, rank))
        self.waits = nx.MultiDiGraph()
        self.reached: dict[Half, list[Head]] = {}
        self.entries: dict[Half, int] = {}
        self.steps: dict[Half, int] = {}
        self.ranks_of: dict[int, list[int]] = {}
        self._place()

    def ranks(self) -> list[int]:
        """Return the ranks that do not come to their end."""
        return sorted({rank for ranks in self.ranks_of.values() for rank in ranks})

    def cycles(self) -> list[list[Wait]]:
        """Return, for every group of heads that wait for one another, a cycle of waits with the fewest."""
        todo = [head for half in self._roots() for head in self._heads(half)]
        told: set[Head] = set()
        while todo:
            head = todo.pop()
            if head in told or self._own((head.node, head.rank)):
                continue
            told.add(head)
            for half, awaited in self._awaited(head):
                wait = self._wait(head, half[1], awaited)
                for other in self._heads(half):
                    self.waits.add_edge(head, other, wait=wait)
                    todo.append(other)
        return shortest_cycles(self.waits)

    def _place(self) -> None:
        """Note for each stuck event on which ranks it stands, as which transfer or compute step."""
        graph, stuck = self.graph, self.graph.stuck
        occurrences, transfers = graph.occurrences, graph.transfers
        for step in np.flatnonzero(stuck[occurrences.node]).tolist():
            half = (int(occurrences.node[step]), int(occurrences.step_rank[step]))
            self.steps.setdefault(half, step)
        for entry in graph.present[stuck[graph.node[graph.present]]].tolist():
            self.entries[int(graph.node[entry]), int(transfers.rank[entry])] = entry
        for node, rank in (*self.steps, *self.entries):
            self.ranks_of.setdefault(node, []).append(rank)
        for node, waits in self.before.items():
            if node not in self.ranks_of:
                self.ranks_of[node] = [waits[0][1]]

    def _roots(self) -> Iterator[Half]:
        """Yield the first stuck compute step of each rank, and the heads of queues that hold others up."""
        firsts: dict[int, Half] = {}
        for half, _ in sorted(self.steps.items(), key=lambda item: item[1]):
            firsts.setdefault(half[1], half)
        yield from firsts.values()
        if self.graph.discipline not in (Discipline.TAGGED, Discipline.BUFFERED):
            yield from (half for half in self.entries if not self._own(half))

    def _own(self, half: Half) -> list[Half]:
        """Return the stuck parts of its own rank that a part waits for."""
        node, rank = half
        waits = self.before.get(node, ())
        return [(before, rank) for before, account in waits if account == rank]

    def _heads(self, half: Half) -> list[Head]:
        """Return the heads that a part waits for on its own rank, itself if it is one."""
        if half not in self.reached:
            self.reached[half] = list(self._search(half))
        return self.reached[half]

    def _search(self, half: Half) -> Iterator[Head]:
        """Go through what a part waits for on its own rank, in depth; the first turn within the rank is told."""
        visited: set[Half] = set()
        way: dict[Half, None] = {}
        turned = False
        todo: list[tuple[Half, int]] = [(half, -1)]
        while todo:
            part, standing = todo.pop()
            if standing == _LEAVE:
                del way[part]
                continue
            if part in way and not turned:
                turned = True
                yield self._turn([*way][[*way].index(part) :])
            if part in visited:
                continue
            visited.add(part)
            standing = part[0] if part in self.steps else standing
            own = self._own(part)
            if not own:
                yield Head(part[1], part[0], standing)
            way[part] = None
            todo.append((part, _LEAVE))
            todo += [(before, standing) for before in own]

    def _turn(self, cycle: list[Half]) -> Head:
        """Add a head that waits for itself: a part that waits for one that stands behind it, or in the same step."""
        known = [half for half in cycle if half in self.steps or half in self.entries]
        pairs = zip(known, [*known[1:], known[0]], strict=True)
        first, second = max(pairs, key=lambda pair: self._at(pair[1]).position - self._at(pair[0]).position)
        place, awaited = self._at(first), self._at(second)
        behind = f"which stands behind it at position {awaited.position}"
        text = f"{awaited.text}, {behind if awaited.position > place.position else 'a part of the same step'}"
        head = Head(first[1], first[0], -1)
        self.waits.add_edge(head, head, wait=Wait(head.rank, place.position, place.text, head.rank, text))
        return head

    def _awaited(self, head: Head) -> Iterator[tuple[Half, str]]:
        """Yield the parts of other ranks that a head waits for, each with its text."""
        for before, account in self.before[head.node]:
            if account == -1:
                half = (before, self.ranks_of[before][0])
                yield half, self._at(half).text
            elif (head.node, head.rank) in self.steps:
                half = (head.node, account)
                yield half, f"rank {account} to reach it at position {self._at(half).position}"
            else:
                yield (head.node, account), self._at((head.node, account)).text

    def _wait(self, head: Head, target: int, awaited: str) -> Wait:
        place = self._at((head.node, head.rank))
        if head.standing in (-1, head.node):
            return Wait(head.rank, place.position, place.text, target, awaited)
        step = self._at((head.standing, head.rank))
        awaited = f"{awaited}, the other end of {place.text} at position {place.position}"
        return Wait(head.rank, step.position, step.text, target, awaited)

    def _at(self, half: Half) -> Place:
        """Return where an event stands on a rank, and its text."""
        if half in self.entries:
            entry = self.entries[half]
            return Place(int(self.graph.transfers.position[entry]), str(self.graph.transfers.op(entry)))
        step = self.steps[half]
        position = int(self.graph.occurrences.step_position[step])
        return Place(position, str(self.schedule.step(half[1], position)))


_LEAVE = -2
