"""The oracle's reading of lowered schedules: what crosses between ranks, and where its two ends stand.

See :mod:`communication`. It imports nothing of schedverify.
"""

from __future__ import annotations

import re
from functools import cache
from typing import Any, NamedTuple

from oracle.law import Case, Law, Op, Place, Step

MARKS = ("UNSHARD", "RESHARD", "REDUCE_GRAD", "WAIT_REDUCE_GRAD")


class Name(NamedTuple):
    """What a message is: the output of ``source`` for ``target``, and one micro-batch's."""

    letter: str
    source: int
    target: int
    microbatch: int


class Transfer(NamedTuple):
    """A send or a receive as it is written; the stage is the acting rank's."""

    sends: bool
    letter: str
    stage: int
    microbatch: int
    peer: int | None


class Wait(NamedTuple):
    """A wait for a send as it is written."""

    letter: str
    stage: int
    microbatch: int
    peer: int | None


class Mark(NamedTuple):
    kind: str
    stage: int


class LoweredStep(NamedTuple):
    ops: tuple[Op | Transfer | Wait | Mark, ...]
    form: str
    """How its members are joined: ``single``, ``overlap`` or ``group``."""


class Item(NamedTuple):
    """A send or a receive where it stands, on the rank that sends and receives for its stage."""

    place: Place
    index: int
    """Where it stands within its step."""
    sends: bool
    name: Name | None
    """None where it is not known which stage is at the other end."""
    channel: tuple[int, int] | None
    """The rank that sends and the rank that receives; None where no rank or the same one is at the other end."""
    is_needed: bool
    """Whether the message is one of the problem's."""
    label: tuple[str, int, int | None, int]
    """What a wait says to mean it: letter, stage, the stage at the other end (if it is known), micro-batch."""


@cache
def read_member(text: str) -> Op | Transfer | Wait | Mark:
    if match := re.fullmatch(r"([0-9]+)([FBIW])([0-9]+)", text):
        return Op(match[2], int(match[1]), int(match[3]))
    if match := re.fullmatch(r"([0-9]+)(SEND|RECV)_([FB])([0-9]+)(?:([<>])([0-9]+))?", text):
        sends = match[2] == "SEND"
        if match[5] in (None, ">" if sends else "<"):
            return Transfer(sends, match[3], int(match[1]), int(match[4]), int(match[6]) if match[6] else None)
    if match := re.fullmatch(r"([0-9]+)WAIT_SEND_([FB])([0-9]+)(?:>([0-9]+))?", text):
        return Wait(match[2], int(match[1]), int(match[3]), int(match[4]) if match[4] else None)
    if match := re.fullmatch(rf"([0-9]+)({'|'.join(MARKS)})", text):
        return Mark(match[2], int(match[1]))
    raise ValueError(f"the oracle knows no {text!r}")


@cache
def read_lowered(text: str) -> LoweredStep:
    """Parse a step of a lowered schedule; anything that is none is a ValueError."""
    if match := re.fullmatch(r"\((.+)\)OVERLAP_F_B", text):
        return LoweredStep(tuple(map(read_member, match[1].split(";"))), "overlap")
    if match := re.fullmatch(r"\[(.+)\]", text):
        members = tuple(map(read_member, match[1].split(";")))
        return LoweredStep(members, "group" if len(members) > 1 else "single")
    return LoweredStep((read_member(text),), "single")


class Wires(Law):
    """The data of one problem, with what crosses between its ranks."""

    def __init__(self, problem: dict[str, Any]) -> None:
        super().__init__(problem)
        copies = problem["placement"] if problem["replicas"] > 1 else [problem["placement"]]
        entries = [entry for copy in copies for entry in copy]
        self.home = [entry[0] if isinstance(entry, list) else entry for entry in entries]
        self.bytes, self.buffer = problem["links"]["bytes"], problem["links"].get("buffer")
        self.declared: dict[tuple[int, int], list[tuple[Any, ...]]] = {}
        for row in problem["boundary"]:
            tensor = tuple(row.get("shape", ())), row.get("dtype", ""), row.get("bytes")
            self.declared.setdefault((row["from"], row["to"]), []).append(tensor)

    def admits_member(self, member: Op | Transfer | Wait | Mark) -> bool:
        """Whether kind, form, stage and micro-batch are the problem's."""
        if isinstance(member, Op):
            return self.admits(member)
        trains = self.form != "inference"
        if isinstance(member, Mark):
            return member.stage < self.stages and (trains or "GRAD" not in member.kind)
        in_range = member.stage < self.stages and member.microbatch < self.microbatches
        return in_range and (trains or member.letter == "F") and self.passes(member.stage, member.microbatch)

    def far_stages(self, transfer: Transfer) -> list[int]:
        """The stages that the message could go to or come from."""
        downstream = transfer.sends == (transfer.letter == "F")
        return self.feeds[transfer.stage] if downstream else self.fed_by[transfer.stage]

    def peer_of(self, transfer: Transfer) -> int | None:
        """The stage at the other end: the one that is named, or the only one there is on another rank."""
        if transfer.peer is not None:
            return transfer.peer if transfer.peer < self.stages else None
        there = self.far_stages(transfer)
        elsewhere = [stage for stage in there if self.home[stage] != self.home[transfer.stage]]
        return elsewhere[0] if len(elsewhere) == 1 else None

    def label(self, member: Transfer | Wait) -> tuple[str, int, int | None, int]:
        """What tells one send of a rank from another: a wait and its send have the same."""
        peer = member.peer
        if peer is None:
            peer = self.peer_of(Transfer(getattr(member, "sends", True), *member[-4:]))
        return member.letter, member.stage, peer, member.microbatch

    def item(self, place: Place, index: int, transfer: Transfer) -> Item:
        peer, label = self.peer_of(transfer), self.label(transfer)
        if peer is None:
            return Item(place, index, transfer.sends, None, None, False, label)
        stages, ranks = (transfer.stage, peer), (place[0], self.home[peer])
        if not transfer.sends:
            stages, ranks = stages[::-1], ranks[::-1]
        name = Name(transfer.letter, *stages, transfer.microbatch)
        channel = ranks if ranks[0] != ranks[1] else None
        is_needed = channel is not None and peer in self.far_stages(transfer)
        return Item(place, index, transfer.sends, name, channel, is_needed, label)

    def messages(self) -> list[Name]:
        """Every message that a complete schedule of the problem needs."""
        found = []
        for source in range(self.stages):
            for target in self.feeds[source]:
                for microbatch in range(self.microbatches):
                    if self.passes(source, microbatch) and self.home[source] != self.home[target]:
                        found.append(Name("F", source, target, microbatch))
                        if self.form != "inference":
                            found.append(Name("B", target, source, microbatch))
        return found

    def makers(self, name: Name) -> list[Op]:
        """The operations that make what a message carries; of a gradient B or I, whichever stand."""
        return [Op(kind, name.source, name.microbatch) for kind in ("F" if name.letter == "F" else "BI")]

    def readers(self, name: Name) -> list[Op]:
        """The operations that read a message, of a gradient B or I."""
        return [Op(kind, name.target, name.microbatch) for kind in ("F" if name.letter == "F" else "BI")]

    def edge_of(self, name: Name) -> tuple[int, int]:
        """The edge of the stage graph, within one copy, that a message crosses one way or the other."""
        edge = (name.source, name.target) if name.letter == "F" else (name.target, name.source)
        return edge[0] % self.copy_size, edge[1] % self.copy_size

    def size(self, name: Name) -> int:
        """Bytes of a message: of the tensor that leaves the boundary's first stage, and of its gradient."""
        return self.bytes[name.source if name.letter == "F" else name.target]


class Program:
    """One lowered schedule under one problem.

    What the problem does not admit is in ``rows`` and nowhere else; sends and receives on a foreign rank likewise.
    """

    def __init__(self, rows: list[list[str]], problem: dict[str, Any], excerpt: bool = False) -> None:
        self.law = law = Wires(problem)
        self.excerpt = excerpt
        self.rows = [[read_lowered(text) for text in row] for row in rows]
        known = [[[op for op in step.ops if law.admits_member(op)] for step in row] for row in self.rows]
        self.case = Case(law, [[Step(only_computes(ops), False) for ops in row] for row in known], excerpt)
        self.computes = self.case.known
        self.items = [
            [
                [
                    law.item((rank, p), i, op)
                    for i, op in enumerate(ops)
                    if isinstance(op, Transfer) and law.home[op.stage] == rank
                ]
                for p, ops in enumerate(row)
            ]
            for rank, row in enumerate(known)
        ]
        self.waits = [
            [[op for op in ops if isinstance(op, Wait) and law.home[op.stage] == rank] for ops in row]
            for rank, row in enumerate(known)
        ]
        self.marks = [[[op for op in ops if isinstance(op, Mark)] for ops in row] for row in known]
        self.all_items = [item for row in self.items for items in row for item in items]
        self.first_send: dict[tuple[int, tuple[Any, ...]], Item] = {}
        for item in self.all_items:
            if item.sends:
                self.first_send.setdefault((item.place[0], item.label), item)
        self.first: dict[tuple[int, Op], int] = {}
        for rank, row in enumerate(self.computes):
            for position, ops in enumerate(row):
                for op in ops:
                    self.first.setdefault((rank, op), position)

    def first_on(self, rank: int, ops: list[Op]) -> list[Place]:
        return [(rank, self.first[rank, op]) for op in ops if (rank, op) in self.first]

    def awaited(self, place: Place, wait: Wait) -> Item | None:
        """The send that a wait is for: the first of its rank that it can mean, if that stands before it."""
        send = self.first_send.get((place[0], self.law.label(wait)))
        return send if send is not None and send.place[1] < place[1] else None

    def let_go(self, send: Item) -> int | None:
        """The position of the wait for a send, or None where the rank never waits for it."""
        rank = send.place[0]
        for position, waits in enumerate(self.waits[rank]):
            if any(self.awaited((rank, position), wait) is send for wait in waits):
                return position
        return None

    def is_lowered(self) -> bool:
        """Whether anything is sent, received or waited for, be it right or wrong."""
        return any(isinstance(op, Transfer | Wait) for row in self.rows for step in row for op in step.ops)


def only_computes(ops: list[Op | Transfer | Wait | Mark]) -> tuple[Op, ...]:
    return tuple(op for op in ops if isinstance(op, Op))
