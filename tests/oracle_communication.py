"""The oracle of lowered schedules: SV301 to SV306 and SV403, from the law alone, sharing no code with schedverify.

Whether a program deadlocks is found by running it (:mod:`oracle_run`), not by a graph. Where the law leaves a choice:

- A send or receive whose peer stage is absent, no neighbour, not unique, or on the same rank is no message: SV301
  tells it, and nothing waits for it. One that stands on a foreign rank talks to its peer stage's rank from there.
- A send or receive that never meets its other end never completes, so the program hangs; a send that needs no other
  end (``tagged``, ``buffered``, eager) does not.
- A send waits for the step of its own rank that makes its tensor, be it before or behind.
- A compute step waits for the receives of its inputs that stand on its own ranks, the first of each.
- Eager messages exist only if ``eager_bytes`` is above 0.
- SV403 asks for the most messages that can be under way in a channel, over all durations.
"""

from __future__ import annotations

from typing import Any

from oracle_law import Place
from oracle_messages import Item, Name, Program
from oracle_run import Run, Wiring

CODES = ("SV301", "SV302", "SV303", "SV304", "SV305", "SV306", "SV403")


class Judge:
    """Judges one lowered schedule, under one discipline after another."""

    def __init__(self, rows: list[list[str]], problem: dict[str, Any], excerpt: bool = False) -> None:
        self.program = Program(rows, problem, excerpt)
        self.law = self.program.law
        self.wiring = Wiring(self.program)

    # Matching

    def mismatches(self) -> set[Place]:
        """SV301: where a send or receive stands that has no one other end, or no right one."""
        sends, receives = self.by_name(True), self.by_name(False)
        found = set()
        for item in self.program.all_items:
            if item.name is None or not self.stands_right(item):
                found.add(item.place)
        for ours, theirs in ((sends, receives), (receives, sends)):
            for name, items in ours.items():
                found |= {item.place for item in items[1:]}
                if name not in theirs:
                    found.add(items[0].place)
        return found

    def stands_right(self, item: Item) -> bool:
        """Whether a send or receive stands on its stage's first rank, and its other end on another."""
        return item.place[0] == self.law.home[item.transfer.stage] and item.channel is not None

    def by_name(self, sends: bool) -> dict[Name, list[Item]]:
        found: dict[Name, list[Item]] = {}
        for item in self.program.all_items:
            if item.name and item.transfer.sends == sends and self.stands_right(item):
                found.setdefault(item.name, []).append(item)
        return found

    def absent_messages(self) -> set[Name]:
        """SV301: needed messages that are neither sent nor received; of an excerpt, those whose both ends compute."""
        there = self.by_name(True).keys() | self.by_name(False).keys()
        return {name for name in self.law.messages() if name not in there and self.is_needed(name)}

    def is_needed(self, name: Name) -> bool:
        stands = self.program.case.where.keys()
        ends = self.law.makers(name), self.law.readers(name)
        return not self.program.excerpt or all(not stands.isdisjoint(ops) for ops in ends)

    def meetings(self, by_name: bool) -> list[tuple[Item, Item]]:
        """Which send meets which receive: the n-th of a channel its n-th, or of those of one name."""
        ends: dict[Any, tuple[list[Item], list[Item]]] = {}
        for item in self.program.all_items:
            if item.channel is not None:
                key = item.channel, item.name if by_name else None
                ends.setdefault(key, ([], []))[not item.transfer.sends].append(item)
        return [pair for both in ends.values() for pair in zip(*both, strict=False)]

    def crossed(self) -> list[tuple[Item, Item]]:
        """SV302: sends and receives that meet and are not of one message."""
        return [(send, receive) for send, receive in self.meetings(False) if send.name != receive.name]

    def misfits(self, discipline: str) -> list[tuple[Item, Item]]:
        """SV306: sends and receives that meet and whose boundaries declare different tensors."""
        found = []
        for send, receive in self.meetings(discipline == "tagged"):
            sent, expected = (self.law.declared.get(self.law.edge_of(end.name)) for end in (send, receive))
            if sent is not None and expected is not None and sent != expected:
                found.append((send, receive))
        return found

    # Order on each rank

    def out_of_order(self) -> set[Place]:
        """SV303: sends before the step that makes their tensor, and receives after the step that reads it."""
        found = set()
        for item in self.program.all_items:
            if item.name is None:
                continue
            rank, position = item.place
            made = self.program.makers_on(item)
            read = self.program.first_on(rank, self.law.readers(item.name))
            if item.transfer.sends and any(place[1] >= position for place in made):
                found.add(item.place)
            if not item.transfer.sends and any(place[1] <= position for place in read):
                found.add(item.place)
        return found

    def sharding_faults(self) -> set[tuple[int, int]]:
        """SV305: (rank, stage) whose UNSHARD and RESHARD do not alternate around every use."""
        found = set()
        for rank in range(len(self.program.rows)):
            for stage in range(self.law.stages):
                story = self.story_of(rank, stage)
                if {"UNSHARD", "RESHARD"} & set(story) and not is_sharded_right(story):
                    found.add((rank, stage))
        return found

    def story_of(self, rank: int, stage: int) -> list[str]:
        """What happens to a stage on a rank, in order: its marks, and ``use`` for each step that computes with it."""
        story = []
        for marks, ops in zip(self.program.marks[rank], self.program.computes[rank], strict=True):
            story += [mark.kind for mark in marks if mark.stage == stage]
            story += ["use"] if any(op.stage == stage for op in ops) else []
        return story

    def reduction_faults(self) -> set[tuple[int, int]]:
        """SV305: (rank, stage) whose gradient is not reduced exactly once, after the last B or W."""
        reductions = [
            (rank, position, mark.stage)
            for rank, row in enumerate(self.program.marks)
            for position, marks in enumerate(row)
            for mark in marks
            if mark.kind == "REDUCE_GRAD"
        ]
        found = set()
        for stage in range(self.law.stages) if reductions else ():
            for rank in self.law.ranks_of[stage]:
                own = [position for on, position, of in reductions if (on, of) == (rank, stage)]
                if len(own) != 1 or own[0] < self.last_gradient(rank, stage):
                    found.add((rank, stage))
        return found

    def last_gradient(self, rank: int, stage: int) -> int:
        """The position of the last B or W of a stage on a rank, -1 where there is none."""
        row = self.program.computes[rank]
        return max((p for p, ops in enumerate(row) for op in ops if op.stage == stage and op.kind in "BW"), default=-1)

    # What runs show

    def run(self, discipline: str, eager_bytes: int = 0) -> Run:
        return Run(self.wiring, discipline, eager_bytes)

    def most_under_way(self, discipline: str, eager_bytes: int) -> dict[tuple[int, int], int]:
        """By channel, the most messages that can be sent and not yet received, whatever the durations are.

        A receive must come before a send if the send is never complete without it. The others may all be late.
        """
        whole = self.run(discipline, eager_bytes)
        alone = [item for item in whole.complete if item.channel and item.transfer.sends and whole.goes_alone(item)]
        before: dict[Item, set[Item]] = {send: set() for send in alone}
        receives = [item for item in whole.complete if item.channel and not item.transfer.sends]
        for receive in receives if alone else ():
            if whole.goes_alone(receive):
                late = Run(self.wiring, discipline, eager_bytes, [receive])
                for send in alone:
                    if send.channel == receive.channel and send not in late.complete:
                        before[send].add(receive)
        most: dict[tuple[int, int], int] = {}
        for send in alone:
            with_it = sum(other.channel == send.channel and before[other] <= before[send] for other in alone)
            most[send.channel] = max(most.get(send.channel, 0), with_it - len(before[send]))
        return most

    def overflows(self, discipline: str, eager_bytes: int) -> set[tuple[int, int]]:
        """SV403: the channels in which more messages can be under way than the buffer holds."""
        if self.law.buffer is None:
            return set()
        most = self.most_under_way(discipline, eager_bytes)
        return {channel for channel, count in most.items() if count > self.law.buffer}

    def verdicts(self, discipline: str, eager_bytes: int = 0) -> dict[str, bool]:
        """Say of each code whether the schedule violates it under a discipline."""
        return {
            "SV301": bool(self.mismatches() or self.absent_messages()),
            "SV302": discipline != "tagged" and bool(self.crossed()),
            "SV303": bool(self.out_of_order()),
            "SV304": self.run(discipline, eager_bytes).is_stuck,
            "SV305": bool(self.sharding_faults() or self.reduction_faults()),
            "SV306": bool(self.misfits(discipline)),
            "SV403": bool(self.overflows(discipline, eager_bytes)),
        }


def is_sharded_right(story: list[str]) -> bool:
    """Whether UNSHARD and RESHARD alternate, UNSHARD first, and every use has one on each side."""
    gathered = used = False
    for event in story:
        if event == "use":
            if not gathered:
                return False
            used = True
        elif event != "REDUCE_GRAD":
            if gathered == (event == "UNSHARD"):
                return False
            gathered, used = not gathered, False
    return not (gathered and used)
