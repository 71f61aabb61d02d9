"""The oracle's machine: it runs the ranks' programs under a discipline until nothing can move.

Ranks act on each other by messages, and by the steps of stages that stand on several ranks, and in no other way.
It imports nothing of schedverify.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Hashable
from functools import cached_property

from oracle.compute_orders import fused_steps, main_places
from oracle.law import Op, Place
from oracle.messages import Item, Name, Program

DISCIPLINES = ("tagged", "buffered", "edge", "pair", "rank", "block")
"""From the least to the most strict."""


class Wiring:
    """What stays the same in every run of a program: who waits for what, who meets whom, who must start together."""

    def __init__(self, program: Program) -> None:
        self.program = program
        self.teams = fused_steps(program.case, main_places(program.case))

    @cached_property
    def makers(self) -> dict[Item, list[Place]]:
        """By send, the steps on its rank that make its tensor; none where it moves no tensor of the problem."""
        program = self.program
        return {
            item: program.first_on(item.place[0], program.law.makers(item.name)) if item.is_needed else []
            for item in program.all_items
            if item.sends
        }

    @cached_property
    def inputs(self) -> dict[Place, tuple[list[Place], list[Item]]]:
        """By compute step, the steps and the receives that its operations wait for, each on its own rank.

        What does not stand there counts as done.
        """
        law = self.program.law
        first: dict[Name | None, Item] = {}
        for item in self.program.all_items:
            if item.is_needed and not item.sends:
                first.setdefault(item.name, item)
        receives: dict[Op, list[Item]] = {}
        for name, item in first.items():
            for op in law.readers(name):
                receives.setdefault(op, []).append(item)
        found = {}
        for place, team in self.teams.items():
            steps: list[Place] = []
            items: list[Item] = []
            for rank, position in team:
                for op in self.program.computes[rank][position]:
                    near = [needed for needed in law.reads(op) if law.home[needed.stage] == law.home[op.stage]]
                    steps += self.program.first_on(rank, near)
                    items += [item for item in receives.get(op, ()) if item.place[0] == rank]
            found[place] = steps, items
        return found

    @cached_property
    def by_number(self) -> dict[Item, Item]:
        """Who meets whom: the n-th send of a channel the n-th receive."""
        return self.partners(lambda item: item.channel)

    @cached_property
    def by_name(self) -> dict[Item, Item]:
        """Who meets whom where messages have names: the n-th send of a message its n-th receive."""
        return self.partners(lambda item: (item.channel, item.name))

    def partners(self, key: Callable[[Item], Hashable]) -> dict[Item, Item]:
        ends: dict[Hashable, tuple[list[Item], list[Item]]] = {}
        for item in self.program.all_items:
            if item.channel is not None:
                ends.setdefault(key(item), ([], []))[not item.sends].append(item)
        pairs = [pair for sides in ends.values() for pair in zip(*sides, strict=False)]
        return dict(pairs) | {receive: send for send, receive in pairs}


class Run:
    """One execution. ``withheld`` receives never complete, so that what cannot be without them shows."""

    def __init__(self, wiring: Wiring, discipline: str, eager_bytes: int = 0, withheld: Collection[Item] = ()) -> None:
        self.wiring, self.program = wiring, wiring.program
        self.discipline, self.eager_bytes, self.withheld = discipline, eager_bytes, withheld
        self.reached = [0] * len(self.program.rows)
        self.partner = wiring.by_name if discipline == "tagged" else wiring.by_number
        self.queues: dict[Hashable, deque[list[Item]]] = {}
        self.posted: set[Place] = set()
        self.complete: set[Item] = set()
        self.done: set[Place] = set()
        while self.go_on() or self.move_messages():
            pass

    @property
    def is_stuck(self) -> bool:
        """Whether a program did not reach its end, or a send or receive is not complete there."""
        ended = all(at == len(row) for at, row in zip(self.reached, self.program.rows, strict=True))
        return not ended or len(self.complete) < len(self.program.all_items)

    def go_on(self) -> bool:
        """Let every rank's program go on as far as it can; say whether any did."""
        before = list(self.reached)
        for rank in range(len(self.reached)):
            self.go_on_at(rank)
        return self.reached != before

    def go_on_at(self, rank: int) -> None:
        row = self.program.items[rank]
        while self.reached[rank] < len(row):
            place = rank, self.reached[rank]
            items = row[place[1]]
            if items and place not in self.posted:
                self.post(place, items)
            if self.program.computes[rank][place[1]] and place not in self.done and not self.compute(place):
                break
            if self.discipline == "block" and not self.complete.issuperset(items):
                break
            awaited = [self.program.awaited(place, wait) for wait in self.program.waits[rank][place[1]]]
            if any(send is not None and send not in self.complete for send in awaited):
                break
            self.reached[rank] += 1

    def compute(self, place: Place) -> bool:
        """Run a step, with all that run as one with it, if every rank has reached it and its inputs are there."""
        team = self.wiring.teams[place]
        if any(self.reached[rank] != position for rank, position in team):
            return False
        steps, receives = self.wiring.inputs[place]
        if not self.done.issuperset(steps) or not self.complete.issuperset(receives):
            return False
        self.done |= team
        return True

    def post(self, place: Place, items: list[Item]) -> None:
        """Put the members of a step into their queues together; what goes to no other rank is done."""
        self.posted.add(place)
        slots: dict[Hashable, list[Item]] = {}
        for item in items:
            if item.channel is None:
                self.complete.add(item)
                continue
            slots.setdefault(self.queue(item), []).append(item)
        for queue, slot in slots.items():
            self.queues.setdefault(queue, deque()).append(slot)

    def queue(self, item: Item) -> Hashable:
        """The queue of its rank that an item stands in."""
        rank, channel = item.place[0], item.channel
        if self.discipline == "tagged":
            return item
        if self.discipline in ("buffered", "edge"):
            return rank, channel
        return (rank, frozenset(channel)) if self.discipline == "pair" else rank

    def at_head(self, item: Item) -> bool:
        queue = self.queues.get(self.queue(item))
        return bool(queue) and item in queue[0]

    def move_messages(self) -> bool:
        """Complete what is at the head of its queue and can be, and move the queues on; say whether any did."""
        moved = False
        for queue in self.queues.values():
            while queue:
                for item in queue[0]:
                    if item not in self.complete and self.can_complete(item):
                        moved = True
                        self.complete.add(item)
                        if item in self.partner and not self.goes_alone(item):
                            self.complete.add(self.partner[item])
                if not self.complete.issuperset(queue[0]):
                    break
                queue.popleft()
                moved = True
        return moved

    def can_complete(self, item: Item) -> bool:
        """Whether an item at the head of its queue can complete now, alone or together with its partner."""
        other = self.partner.get(item)
        if other is None or (item.sends and self.goes_alone(item)):
            return not item.sends or self.has_tensor(item)
        if item in self.withheld or other in self.withheld:
            return False
        send = item if item.sends else other
        if self.goes_alone(send):
            return send in self.complete
        return self.at_head(other) and self.has_tensor(send)

    def has_tensor(self, send: Item) -> bool:
        return self.done.issuperset(self.wiring.makers[send])

    def goes_alone(self, item: Item) -> bool:
        """Whether a send is complete without its receive, or the receive of such a send after it."""
        send = item if item.sends else self.partner[item]
        eager = self.eager_bytes > 0 and self.program.law.size(send.name) <= self.eager_bytes
        return eager or self.discipline in ("tagged", "buffered")
