"""The oracle of lowered schedules: SV301 to SV306, SV403 to SV405, from the law alone; no code of schedverify's in it.

Whether a program deadlocks is found by running it (:mod:`machine`), not by a graph. Where the law leaves a choice:

- Where nothing is sent or received, nothing is missing: it is a compute order.
- A send or receive on a foreign rank is SV102's matter, and there is none of it here.
- One whose peer stage is not known, or on the same rank, goes nowhere, and nothing waits for it: SV301 tells it. One
  that names a stage that is no neighbour goes to that stage's rank all the same, and waits for no tensor.
- A send or receive that never meets its other end counts as met, as an absent operation counts as done in SV201.
- A send waits for the step on its rank that makes its tensor, be it before or behind; a compute step for the outputs
  on its own ranks that it reads, and for the first receive there of each other input. So ranks act on each other by
  messages, and by the steps of stages that stand on several ranks, and in no other way.
- A wait is for the first send of its rank that it can mean; where that stands behind it, or nowhere, it waits for
  nothing. A second wait for one send is one too many.
- A wait for a reduction that stands before its ``REDUCE_GRAD``, or without one, is one too many.
- Eager messages exist only if ``eager_bytes`` is above 0.
- SV403 asks for the most messages that can be under way in a channel, over all durations.
- SV405 looks at the stages that are on the rank; an ``UNSHARD`` elsewhere is SV102's matter.
"""

from __future__ import annotations

from typing import Any

from oracle.law import Place
from oracle.machine import Run, Wiring
from oracle.messages import Item, Name, Program

CODES = ("SV301", "SV302", "SV303", "SV304", "SV305", "SV306", "SV403", "SV404", "SV405")


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
        found = {item.place for item in self.program.all_items if not item.is_needed}
        for ours, theirs in ((sends, receives), (receives, sends)):
            for name, items in ours.items():
                found |= {item.place for item in items[1:]}
                if name not in theirs:
                    found.add(items[0].place)
        return found

    def by_name(self, sends: bool) -> dict[Name, list[Item]]:
        found: dict[Name, list[Item]] = {}
        for item in self.program.all_items:
            if item.is_needed and item.sends == sends:
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
        partner = self.wiring.by_name if by_name else self.wiring.by_number
        return [(send, receive) for send, receive in partner.items() if send.sends]

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

    def missized(self) -> set[tuple[int, int]]:
        """SV306: edges, of any copy, over which a message has other bytes than its boundary declares in all rows.

        Where no stage has any bytes, the problem says nothing of them.
        """
        found = set()
        for item in self.program.all_items:
            if item.sends and item.is_needed and any(self.law.bytes):
                rows = self.law.declared.get(self.law.edge_of(item.name), [])
                known = [row[2] for row in rows if row[2] is not None]
                if rows and len(known) == len(rows) and sum(known) != self.law.size(item.name):
                    ends = (item.name.source, item.name.target)
                    found.add(ends if item.name.letter == "F" else ends[::-1])
        return found

    # Order on each rank

    def out_of_order(self) -> set[Place]:
        """SV303: sends before the step that makes their tensor, receives after the step that reads it, idle waits."""
        found = self.idle_waits()
        for item in self.program.all_items:
            if item.is_needed:
                ops = self.law.makers(item.name) if item.sends else self.law.readers(item.name)
                positions = [position for _, position in self.program.first_on(item.place[0], ops)]
                late = any(position >= item.place[1] for position in positions)
                early = any(position <= item.place[1] for position in positions)
                if late if item.sends else early:
                    found.add(item.place)
        return found

    def idle_waits(self) -> set[Place]:
        """SV303: waits without a send before them, and those for what was waited for already."""
        found: set[Place] = set()
        for rank, row in enumerate(self.program.waits):
            seen = set()
            for position, waits in enumerate(row):
                for wait in waits:
                    label = self.law.label(wait)
                    if label in seen or self.program.awaited((rank, position), wait) is None:
                        found.add((rank, position))
                    seen.add(label)
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

    def unawaited_reductions(self) -> set[tuple[int, int]]:
        """SV305: (rank, stage) of which not exactly one wait stands behind each reduction, and none elsewhere."""
        found = set()
        places = [self.mark_places(rank) for rank in range(len(self.program.rows))]
        if not any(marks[kind, stage] for marks in places for kind, stage in marks if kind == "WAIT_REDUCE_GRAD"):
            return found
        for rank, marks in enumerate(places):
            for stage in range(self.law.stages):
                waits, reductions = (marks.get((kind, stage), []) for kind in ("WAIT_REDUCE_GRAD", "REDUCE_GRAD"))
                alone = any(all(wait <= reduction for reduction in reductions) for wait in waits)
                if alone or any(sum(wait > reduction for wait in waits) != 1 for reduction in reductions):
                    found.add((rank, stage))
        return found

    def mark_places(self, rank: int) -> dict[tuple[str, int], list[int]]:
        """By kind and stage, where a rank's marks stand."""
        found: dict[tuple[str, int], list[int]] = {}
        for position, marks in enumerate(self.program.marks[rank]):
            for mark in marks:
                found.setdefault((mark.kind, mark.stage), []).append(position)
        return found

    # Limits

    def crowded_sends(self) -> set[Place]:
        """SV404: by rank, the first position at which more sends are begun and not waited for than there may be."""
        found: set[Place] = set()
        for rank, limit in enumerate(self.law.outstanding_sends or []):
            pending: list[Item] = []
            for position, items in enumerate(self.program.items[rank]):
                pending += [item for item in items if item.sends]
                if len(pending) > limit:
                    found.add((rank, position))
                    break
                done = [self.program.awaited((rank, position), wait) for wait in self.program.waits[rank][position]]
                pending = [send for send in pending if not any(send is other for other in done)]
        return found

    def crowded_weights(self) -> set[Place]:
        """SV405: by rank, the first position at which more of its stages are unsharded than there may be."""
        found: set[Place] = set()
        for rank, limit in enumerate(self.law.unsharded or []):
            held: set[int] = set()
            for position, all_marks in enumerate(self.program.marks[rank]):
                marks = [mark for mark in all_marks if rank in self.law.ranks_of[mark.stage]]
                if len(held | {mark.stage for mark in marks if mark.kind == "UNSHARD"}) > limit:
                    found.add((rank, position))
                    break
                for mark in marks:
                    if mark.kind == "UNSHARD":
                        held = held | {mark.stage}
                    if mark.kind == "RESHARD":
                        held = held - {mark.stage}
        return found

    # What runs show

    def run(self, discipline: str, eager_bytes: int = 0) -> Run:
        return Run(self.wiring, discipline, eager_bytes)

    def most_under_way(self, whole: Run) -> dict[tuple[int, int], int]:
        """By channel, the most messages that can be sent and not yet received, whatever the durations are.

        A receive must come before a send if the send is never complete without it. The others may all be late.
        """
        alone = [item for item in whole.complete if item.channel and item.sends and whole.goes_alone(item)]
        before: dict[Item, set[Item]] = {send: set() for send in alone}
        receives = [item for item in whole.complete if not item.sends and item in whole.partner]
        for receive in receives if alone else ():
            if whole.goes_alone(receive):
                late = Run(self.wiring, whole.discipline, whole.eager_bytes, [receive])
                for send in alone:
                    if send.channel == receive.channel and send not in late.complete:
                        before[send].add(receive)
        most: dict[tuple[int, int], int] = {}
        for send in alone:
            with_it = sum(other.channel == send.channel and before[other] <= before[send] for other in alone)
            most[send.channel] = max(most.get(send.channel, 0), with_it - len(before[send]))
        return most

    def overflows(self, whole: Run) -> set[tuple[int, int]]:
        """SV403: the channels in which more messages can be under way than the buffer holds."""
        if self.law.buffer is None:
            return set()
        return {channel for channel, count in self.most_under_way(whole).items() if count > self.law.buffer}

    def verdicts(self, discipline: str, run: Run | None = None, eager_bytes: int = 0) -> dict[str, bool]:
        """Say of each code whether the schedule violates it under a discipline; ``run`` is its run, if there is one."""
        run = run or self.run(discipline, eager_bytes)
        return {
            "SV301": self.program.is_lowered() and bool(self.mismatches() or self.absent_messages()),
            "SV302": discipline != "tagged" and bool(self.crossed()),
            "SV303": bool(self.out_of_order()),
            "SV304": self.program.is_lowered() and run.is_stuck,
            "SV305": bool(self.sharding_faults() or self.reduction_faults() or self.unawaited_reductions()),
            "SV306": bool(self.misfits(discipline) or self.missized()),
            "SV403": bool(self.overflows(run)),
            "SV404": bool(self.crowded_sends()),
            "SV405": bool(self.crowded_weights()),
        }


def is_sharded_right(story: list[str]) -> bool:
    """Whether UNSHARD and RESHARD alternate, UNSHARD first, and every use has one on each side."""
    gathered = used = False
    for event in story:
        if event == "use":
            if not gathered:
                return False
            used = True
        elif event in ("UNSHARD", "RESHARD"):
            if gathered == (event == "UNSHARD"):
                return False
            gathered, used = not gathered, False
    return not (gathered and used)
