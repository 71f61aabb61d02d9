"""Why the events of a lowered schedule cannot all happen: cycles of ranks that wait for one another, wait by wait."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from schedverify.core.discipline import Discipline
from schedverify.core.schedule import Schedule
from schedverify.verifier.happens_before import EventGraph
from schedverify.verifier.wait_cycles import Wait, shortest_cycles

Part = tuple[int, int]
"""An event and a rank: the rank's own part in it."""


class BlockedPart(NamedTuple):
    """A part at which a rank stands: nothing of its own rank holds it up, but its other end does.

    Attributes
    ----------
    step
        The compute step, or wait for a send, that waits for it on the rank, where the way to it leads through one,
        else -1; under ``block`` the rank stands at the transfer itself.
    """

    rank: int
    node: int
    step: int


class EventPlace(NamedTuple):
    """Where an event stands on a rank, and its text there."""

    position: int
    text: str


class Stalls:
    """What is blocked in an event graph, and who waits for whom.

    A part of a blocked event waits for blocked events of its own rank, if there are any; else its rank is blocked at
    it, and waits for the part of another rank. From one such part others are reached this way, and where anything is
    blocked, some reach themselves.

    Attributes
    ----------
    before
        By blocked event, what it waits for: blocked events, each with the rank on account of which it waits.
    waits
        The waits that are found: a multigraph of networkx whose nodes are the parts at which ranks are blocked.
    reached
        By part, at which parts its rank is blocked before it can come to it.
    entries, steps
        By part of an event that is a transfer, its entry; by part of one that holds its rank's program, a compute step
        or a wait for a send, its position.
    ranks_of
        By blocked event, the ranks on which it stands.
    """

    def __init__(self, graph: EventGraph, schedule: Schedule) -> None:
        import networkx as nx

        self.graph, self.schedule = graph, schedule
        self.before: dict[int, list[Part]] = {}
        both = graph.blocked[graph.before] & graph.blocked[graph.after]
        columns = (graph.before, graph.after, graph.waiting_rank)
        for node, later, rank in zip(*(column[both].tolist() for column in columns), strict=True):
            self.before.setdefault(later, []).append((node, rank))
        self.waits = nx.MultiDiGraph()
        self.reached: dict[Part, list[BlockedPart]] = {}
        self.entries: dict[Part, int] = {}
        self.steps: dict[Part, int] = {}
        self.ranks_of: dict[int, list[int]] = {}
        self._place()

    def ranks(self) -> list[int]:
        """Return the ranks that do not come to their end."""
        return sorted({rank for ranks in self.ranks_of.values() for rank in ranks})

    def cycles(self) -> list[list[Wait]]:
        """Return, for every group of blocked parts that wait for one another, a cycle of waits with the fewest."""
        todo = [blocked for part in self._roots() for blocked in self._blocked_at(part)]
        seen: set[BlockedPart] = set()
        while todo:
            blocked = todo.pop()
            if blocked in seen or self._own((blocked.node, blocked.rank)):
                continue
            seen.add(blocked)
            for part, awaited in self._awaited(blocked):
                wait = self._wait(blocked, part[1], awaited)
                for other in self._blocked_at(part):
                    self.waits.add_edge(blocked, other, wait=wait)
                    todo.append(other)
        return shortest_cycles(self.waits)

    def _place(self) -> None:
        """Note for each blocked event on which ranks it stands, as which transfer, compute step or wait."""
        graph, blocked = self.graph, self.graph.blocked
        occurrences, transfers = graph.occurrences, graph.transfers
        for step in np.flatnonzero(blocked[occurrences.node]).tolist():
            part = (int(occurrences.node[step]), int(occurrences.step_rank[step]))
            self.steps.setdefault(part, int(occurrences.step_position[step]))
        for wait in np.flatnonzero(blocked[graph.wait_node]).tolist():
            part = (int(graph.wait_node[wait]), int(transfers.waits.rank[wait]))
            self.steps.setdefault(part, int(transfers.waits.position[wait]))
        for entry in graph.present[blocked[graph.node[graph.present]]].tolist():
            self.entries[int(graph.node[entry]), int(transfers.rank[entry])] = entry
        for node, rank in (*self.steps, *self.entries):
            self.ranks_of.setdefault(node, []).append(rank)
        for node, waits in self.before.items():
            self.ranks_of.setdefault(node, [waits[0][1]])

    def _roots(self) -> Iterator[Part]:
        """Yield the first blocked compute step or wait of each rank, and the transfers at which its queues stand."""
        firsts: dict[int, Part] = {}
        for part, _ in sorted(self.steps.items(), key=lambda item: (item[0][1], item[1])):
            firsts.setdefault(part[1], part)
        yield from firsts.values()
        if self.graph.discipline not in (Discipline.TAGGED, Discipline.BUFFERED):
            yield from (part for part in self.entries if not self._own(part))

    def _own(self, part: Part) -> list[Part]:
        """Return the blocked parts of its own rank that a part waits for."""
        node, rank = part
        waits = self.before.get(node, ())
        return [(before, rank) for before, account in waits if account == rank]

    def _blocked_at(self, part: Part) -> list[BlockedPart]:
        """Return the parts at which a rank is blocked before it can come to a part, which may be this one."""
        if part not in self.reached:
            self.reached[part] = list(self._search(part))
        return self.reached[part]

    def _search(self, first: Part) -> Iterator[BlockedPart]:
        """Go through what a part waits for on its own rank, in depth; the first cycle within it is yielded too."""
        visited: set[Part] = set()
        way: dict[Part, None] = {}
        cycle_found = False
        todo: list[tuple[Part, int]] = [(first, -1)]
        while todo:
            part, step = todo.pop()
            if step == _LEAVE:
                del way[part]
                continue
            if part in way and not cycle_found:
                cycle_found = True
                yield self._waits_for_itself([*way][[*way].index(part) :])
            if part in visited:
                continue
            visited.add(part)
            step = part[0] if part in self.steps and self.graph.discipline is not Discipline.BLOCK else step
            own = self._own(part)
            if not own:
                yield BlockedPart(part[1], part[0], step)
            way[part] = None
            todo.append((part, _LEAVE))
            todo += [(before, step) for before in own]

    def _waits_for_itself(self, cycle: list[Part]) -> BlockedPart:
        """Add a part that waits for itself: through one that stands behind it on its rank, or in the same step."""
        known = [part for part in cycle if part in self.steps or part in self.entries]
        pairs = zip(known, [*known[1:], known[0]], strict=True)
        first, second = max(pairs, key=lambda pair: self._at(pair[1]).position - self._at(pair[0]).position)
        place, awaited = self._at(first), self._at(second)
        behind = f"which stands behind it at position {awaited.position}"
        text = f"{awaited.text}, {behind if awaited.position > place.position else 'a part of the same step'}"
        blocked = BlockedPart(first[1], first[0], -1)
        self.waits.add_edge(blocked, blocked, wait=Wait(first[1], place.position, place.text, first[1], text))
        return blocked

    def _awaited(self, blocked: BlockedPart) -> Iterator[tuple[Part, str]]:
        """Yield the parts of other ranks that a blocked one waits for, each with its text."""
        for before, account in self.before[blocked.node]:
            part = (before, self.ranks_of[before][0]) if account == -1 else (blocked.node, account)
            joint = account != -1 and (blocked.node, blocked.rank) in self.steps
            place = self._at(part)
            yield part, f"rank {account} to reach it at position {place.position}" if joint else place.text

    def _wait(self, blocked: BlockedPart, target: int, awaited: str) -> Wait:
        place = self._at((blocked.node, blocked.rank))
        if blocked.step in (-1, blocked.node):
            return Wait(blocked.rank, place.position, place.text, target, awaited)
        step = self._at((blocked.step, blocked.rank))
        awaited = f"{awaited}, the other end of {place.text} at position {place.position}"
        return Wait(blocked.rank, step.position, step.text, target, awaited)

    def _at(self, part: Part) -> EventPlace:
        """Return where an event stands on a rank, and its text."""
        if part in self.entries:
            entry = self.entries[part]
            return EventPlace(int(self.graph.transfers.position[entry]), str(self.graph.transfers.op(entry)))
        return EventPlace(self.steps[part], str(self.schedule.step(part[1], self.steps[part])))


_LEAVE = -2
