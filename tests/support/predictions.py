"""What the verifier's verdicts say of a real run of :mod:`bare_executor`: right gradients, wrong ones, or a hang.

An order hangs

- where a send or receive finds no other end (SV301 tells them all; which are left over depends on what a message is met
  by: its name where it has a tag, its place in the channel where it has none), or
- where SV304 is violated under the discipline that the mode is: ``tagged``, ``edge``, and ``block`` for blocking calls
  without tags. Blocking calls with tags have no discipline of their own. Where SV302 holds, what meets by name is what
  meets by place, so it is ``block``; and where SV302 is violated outside of groups it hangs: each of the two messages
  that cross stands behind the other on one side, and each side waits for the one that stands first there.

SV304 lets a step wait for what stands behind it on its own rank, and a send for the step that makes its tensor. The
executor reads zeros instead and goes on. Such steps are taken out before SV304 is asked again: what is absent counts as
done. Where they would have waited for a receive as well, that proves a hang and not the lack of one.

Where it does not hang, the gradients are wrong if anything is violated that changes them, and right otherwise. Harmless
are: operations on foreign ranks (which the executor passes over; what is missing without them is not), an F or I that
stands twice, an I beside a B, a W beside a B without its I, both ends of a message twice, sends and receives that go to
no other rank, an UNSHARD or RESHARD too many or too few with no use left outside. Two things are left open: a B beside
its I and W, or a stage reduced twice, where something comes too early, so that one of the two may add nothing.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple

from schedverify.core.op import Kind, Op
from schedverify.core.problem import Problem
from schedverify.core.result import Report, Verdict, Violation
from schedverify.core.schedule import Schedule
from schedverify.verifier.verification import verify

Rows = list[list[str]]

DISCIPLINE = {"tagged": "tagged", "edge": "edge", "block": "block", "named block": "block"}
"""The discipline that each mode of the executor is judged by."""


class Outcome(StrEnum):
    """What a real run shows."""

    RIGHT = "right"
    WRONG = "wrong"
    HANG = "hang"


def predicted(rows: Rows, problem: Problem, mode: str) -> Outcome | None:
    """Return what a real run must show, or None where the verdicts do not decide it."""
    return Prediction(rows, problem, mode).outcome()


class Placed(NamedTuple):
    """A member of a step, and where it stands."""

    rank: int
    position: int
    op: Op


class Prediction:
    """One order in one mode, judged without what the executor passes over or what changes nothing."""

    def __init__(self, rows: Rows, problem: Problem, mode: str) -> None:
        self.problem, self.named, self.discipline = problem, mode in ("tagged", "named block"), DISCIPLINE[mode]
        foreign = self.judged(rows)["SV102"].violations
        self.rows = without(rows, {(v.rank, v.position, op) for v in foreign for op in v.operations})
        self.rows = without(self.rows, self.idle_parts())
        self.report = self.judged(self.rows)
        again = [v for v in self.report["SV104"].violations if Op.parse(v.operations[0]).kind in (Kind.F, Kind.I)]
        flawed = [v for v in self.report["SV301"].violations if not is_lone(v)]
        self.harmless = set(map(key, again + flawed))
        # One of two reductions may come while there is nothing to reduce.
        reduced = [v.operations for v in self.report["SV305"].violations if "REDUCE_GRAD" in v.operations[0]]
        self.undecided |= len(reduced) > len(set(reduced))

    def judged(self, rows: Rows) -> Report:
        return verify(Schedule.of(rows), self.problem, select=("SV1", "SV2", "SV3"), discipline=self.discipline)

    def outcome(self) -> Outcome | None:
        hangs = self.hangs()
        if hangs is None or self.undecided:
            return None
        return Outcome.HANG if hangs else Outcome.WRONG if self.is_wrong() else Outcome.RIGHT

    def reduces(self) -> bool:
        """Whether any gradient is reduced, so that those of one process are to be divided by the micro-batches."""
        return any("REDUCE_GRAD" in text for row in self.rows for text in row)

    # What stands where

    def placed(self, rows: Rows) -> list[Placed]:
        """Return all that is of the problem, where it stands."""
        return [
            Placed(rank, position, op)
            for rank, row in enumerate(rows)
            for position, text in enumerate(row)
            for op in map(Op.parse, members(text))
            if admits(self.problem, op)
        ]

    def idle_parts(self) -> set[tuple[int, int, str]]:
        """Return each I beside a B without a W, and each W beside a B without an I.

        What comes of a B beside them where anything is read too early is not decided.
        """
        placed = self.placed(self.rows)
        there = {place.op for place in placed}
        beside = [p for p in placed if p.op.kind in (Kind.I, Kind.W) and p.op._replace(kind=Kind.B) in there]
        self.undecided = bool(beside and self.early(self.rows))
        other = {Kind.I: Kind.W, Kind.W: Kind.I}
        alone = [place for place in beside if place.op._replace(kind=other[place.op.kind]) not in there]
        return {(place.rank, place.position, str(place.op)) for place in alone}

    def early(self, rows: Rows) -> list[tuple[Placed, Placed]]:
        """Return what does not wait for something that it reads or sends, with that: it stands behind, or beside."""
        placed = self.placed(rows)
        first: dict[tuple[int, Op], Placed] = {}
        for place in placed:
            first.setdefault((place.rank, self.plain(place.op)), place)
        found = []
        for place in placed:
            for needed in self.needs(place.op):
                other = first.get((place.rank, needed))
                if other is not None and other.position >= place.position:
                    found.append((place, other))
        return found

    def plain(self, op: Op) -> Op:
        """Leave out the name of a peer that is the only one; any other stays, and is none that a step reads."""
        return op._replace(peer=None) if op.peer in (None, neighbour(op)) else op

    def needs(self, op: Op) -> list[Op]:
        """Return what an operation waits for on its own rank: receives for a step, makers for a send."""
        stage = op.stage
        gradients = [op._replace(kind=kind, peer=None) for kind in (Kind.B, Kind.I)]
        if op.kind in (Kind.SEND_F, Kind.SEND_B):
            makers = [op._replace(kind=Kind.F, peer=None)] if op.kind == Kind.SEND_F else gradients
            return makers if self.plain(op).peer is None else []
        if op.kind == Kind.W:
            return [op._replace(kind=Kind.I)]
        if op.kind == Kind.F and stage > 0:
            near = [Op(Kind.F, stage - 1, op.microbatch)]
            return near if self.together(stage, stage - 1) else [op._replace(kind=Kind.RECV_F)]
        found = [op._replace(kind=Kind.F)] if op.kind in (Kind.B, Kind.I) else []
        if found and stage + 1 < self.problem.total_stages:
            near = [gradient._replace(stage=stage + 1) for gradient in gradients]
            found += near if self.together(stage, stage + 1) else [op._replace(kind=Kind.RECV_B)]
        return found

    def together(self, stage: int, other: int) -> bool:
        return self.problem.owner_rank[stage] == self.problem.owner_rank[other]

    # Hangs

    def hangs(self) -> bool | None:
        if self.has_unmet():
            return True
        if self.named and self.discipline == "block" and self.report["SV302"].violations:
            return None if any("[" in text for row in self.rows for text in row) else True
        return self.is_stuck()

    def has_unmet(self) -> bool:
        """Whether the sends and receives that SV301 tells do not pair up among themselves."""
        left: dict[object, int] = {}
        for violation in self.report["SV301"].violations:
            if len(violation.operations) == 1:
                op = Op.parse(violation.operations[0])
                peer = neighbour(op) if op.peer is None else op.peer
                if not 0 <= peer < self.problem.total_stages or self.together(op.stage, peer):
                    continue
                sends = op.kind.is_send
                stages = (op.stage, peer) if sends else (peer, op.stage)
                name = (op.kind in (Kind.SEND_B, Kind.RECV_B), *stages, op.microbatch)
                channel = tuple(self.problem.owner_rank[stage] for stage in stages)
                meets = name if self.named else channel
                left[meets] = left.get(meets, 0) + (1 if sends else -1)
        return any(left.values())

    def is_stuck(self) -> bool | None:
        """Whether SV304 is violated by what the executor waits for; None where that is not decided."""
        rows, exact = self.rows, True
        while self.judged(rows)["SV304"].verdict is Verdict.VIOLATED:
            early = self.early(rows)
            if not early:
                return True
            reader, awaited = early[0]
            gone = awaited if reader.op.kind.is_transfer else reader
            if self.receives(gone, rows) and not awaited.op.kind.is_transfer and not self.receives(awaited, rows):
                gone = awaited
            exact = exact and not self.receives(gone, rows)
            rows = without(rows, {(gone.rank, gone.position, str(gone.op))})
        return False if exact else None

    def receives(self, place: Placed, rows: Rows) -> bool:
        """Whether a step waits for a receive that stands before it."""
        needed = [op for op in self.needs(place.op) if op.kind.is_transfer]
        there = [other for other in self.placed(rows) if other.rank == place.rank and self.plain(other.op) in needed]
        return place.op.kind.is_compute and any(other.position < place.position for other in there)

    # Gradients

    def is_wrong(self) -> bool:
        """Whether anything is violated that changes the gradients of an order that does not hang."""
        return any(self.changes(violation) for violation in self.report.violations) or any(
            reader.op.kind.is_compute and awaited.op.kind.is_compute for reader, awaited in self.early(self.rows)
        )

    def changes(self, violation: Violation) -> bool:
        """Whether a violation changes the gradients."""
        if violation.code not in ("SV103", "SV104", "SV301", "SV302", "SV303", "SV305"):
            return False
        operations = [Op.parse(text) for text in violation.operations]
        if violation.code == "SV104":
            return operations[-1].kind in (Kind.B, Kind.W)
        if violation.code == "SV301":
            return len(operations) > 1 or (is_lone(violation) and operations[0].kind.is_send)
        if violation.code == "SV302":
            return key(violation) not in self.harmless and not is_same_tensor(*operations)
        if violation.code == "SV303":
            return operations[0].kind.is_send or key(violation) not in self.harmless
        if violation.code == "SV305":
            lost = operations[0].kind.is_compute and "is not gathered" in violation.message
            return (lost and key(violation) not in self.harmless) or operations[0].kind == Kind.REDUCE_GRAD
        return True


def key(violation: Violation) -> tuple[int | None, int | None, str]:
    return violation.rank, violation.position, violation.operations[0]


def is_lone(violation: Violation) -> bool:
    """Whether SV301 tells of a message of the problem of which one end or both are missing."""
    return "missing" in violation.message


def is_same_tensor(receive: Op, send: Op) -> bool:
    """Whether what arrives is what is wanted, sent under another name."""
    wanted = neighbour(receive) if receive.peer is None else receive.peer
    letters = {Kind.RECV_F: Kind.SEND_F, Kind.RECV_B: Kind.SEND_B}
    return (letters[receive.kind], wanted, receive.microbatch) == (send.kind, send.stage, send.microbatch)


def neighbour(op: Op) -> int:
    """Return the stage at the other end of a send or receive in a chain."""
    onward = op.kind in (Kind.SEND_F, Kind.RECV_B)
    return op.stage + (1 if onward else -1)


def admits(problem: Problem, op: Op) -> bool:
    kinds = (Kind.I, Kind.W)
    fits = op.stage < problem.total_stages and (op.microbatch or 0) < problem.microbatches
    return fits and (problem.form == "split" or op.kind not in kinds)


def members(text: str) -> list[str]:
    return text.removesuffix("OVERLAP_F_B").strip("()[]").split(";")


def without(rows: Rows, gone: set[tuple[int | None, int | None, str]]) -> Rows:
    """Return rows without some members of steps: (rank, position, text)."""
    found: Rows = [[] for _ in rows]
    for rank, row in enumerate(rows):
        for position, text in enumerate(row):
            kept = [member for member in members(text) if (rank, position, member) not in gone]
            found[rank] += [joined(kept, text)] if kept else []
    return found


def joined(kept: list[str], text: str) -> str:
    """Return the members that are left of a step as a step of its form."""
    if len(kept) == 1:
        return kept[0] if len(members(text)) > 1 else text
    inner = ";".join(kept)
    return f"[{inner}]" if text.startswith("[") else f"({inner})OVERLAP_F_B"
