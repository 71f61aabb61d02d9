"""The oracle's run of a lowered schedule under a discipline: what starts when, or that it is stuck.

It raises nothing and imports nothing of schedverify: every time is worked out as soon as all that it follows from is
known, over and over, until nothing is added. What has no time then is stuck. Operations are taken to be right: each
compute operation once on each of its ranks, each message with one send and one receive.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

from oracle.law import Law, Op
from oracle.times import entry_of

Place = tuple[int, int, int]
"""A rank, a position in its order, and which operation of the step."""


class Transfer(NamedTuple):
    """A send or a receive as it is written."""

    is_send: bool
    kind: str
    stage: int
    microbatch: int
    peer: int | None


def read_any(text: str) -> list[Op | Transfer | Wait]:
    """Take a step apart, compute, communication or a wait."""
    members = text.removesuffix("OVERLAP_F_B").strip("()[]").split(";")
    return [_member(member) for member in members]


def _member(text: str) -> Op | Transfer | Wait:
    compute = re.fullmatch(r"(\d+)([FBIW])(\d+)", text)
    if compute:
        return Op(compute[2], int(compute[1]), int(compute[3]))
    wait = re.fullmatch(r"(\d+)WAIT_SEND_([FB])(\d+)(?:>(\d+))?", text)
    if wait:
        return Wait(wait[2], int(wait[1]), int(wait[3]), wait[4] and int(wait[4]))
    found = re.fullmatch(r"(\d+)(SEND|RECV)_([FB])(\d+)(?:[<>](\d+))?", text)
    if found is None:
        raise ValueError(f"the oracle knows no {text!r}")
    return Transfer(found[2] == "SEND", found[3], int(found[1]), int(found[4]), found[5] and int(found[5]))


class Wait(NamedTuple):
    """A wait for a send, as it is written."""

    kind: str
    stage: int
    microbatch: int
    peer: int | None


class Run:
    """One run of a lowered schedule: the times that are known so far, by name of what happens."""

    def __init__(self, rows: list[list[str]], problem: dict[str, Any], discipline: str, eager_bytes: int = 0) -> None:
        self.law = Law(problem)
        self.discipline, self.eager_bytes = discipline, eager_bytes
        self.links, self.costs = problem["links"], problem["costs"]
        self.overlapped = {(row["forward"], row["backward"]): row["cost"] for row in self.costs["overlapped"]}
        copies = problem["placement"] if problem["replicas"] > 1 else [problem["placement"]]
        self.home = [entry[0] if isinstance(entry, list) else entry for copy in copies for entry in copy]
        self.rows = [[read_any(text) for text in row] for row in rows]
        self.where: dict[Op, list[tuple[int, int]]] = {}
        self.send_of: dict[Place, Place] = {}
        self.receive_of: dict[Place, Place] = {}
        self.known: dict[Any, int] = {}
        for rank, row in enumerate(self.rows):
            for position, ops in enumerate(row):
                for op in ops:
                    if isinstance(op, Op):
                        self.where.setdefault(op, []).append((rank, position))
        self.places = list(self._transfers())
        self.names = {place: self._named(place) for place in self.places}
        self.sends = {self.names[place]: place for place in self.places if self.op(place).is_send}
        self.receives = {self.names[place]: place for place in self.places if not self.op(place).is_send}
        self.ahead = {place: self._ahead(place) for place in self.places} if discipline != "tagged" else {}
        self._match()
        while self._pass():
            pass

    @property
    def stuck(self) -> bool:
        return any(("start", place) not in self.known for place in self.places) or any(
            ("end", (rank, position)) not in self.known
            for rank, row in enumerate(self.rows)
            for position, ops in enumerate(row)
            if isinstance(ops[0], Op | Wait)
        )

    @property
    def compute_times(self) -> list[list[tuple[int, int]]]:
        """By rank, start and end of every compute step."""
        return [
            [
                (self.known["start", (rank, position)], self.known["end", (rank, position)])
                for position, ops in enumerate(row)
                if isinstance(ops[0], Op)
            ]
            for rank, row in enumerate(self.rows)
        ]

    @property
    def transfer_times(self) -> list[list[tuple[int, int]]]:
        """By rank, of every send, receive or group, when its first member starts and its last is complete.

        Of a wait, when its rank comes to it and when it goes on.
        """
        found: list[list[tuple[int, int]]] = []
        for rank, row in enumerate(self.rows):
            found.append([])
            for position, ops in enumerate(row):
                if isinstance(ops[0], Wait):
                    found[-1].append((self.known["posted", rank, position], self.known["end", (rank, position)]))
                elif isinstance(ops[0], Transfer):
                    members = [(rank, position, member) for member in range(len(ops))]
                    start = min(self.known["start", place] for place in members)
                    found[-1].append((start, max(self.known["complete", place] for place in members)))
        return found

    # Who meets whom

    def _transfers(self) -> Iterator[Place]:
        for rank, row in enumerate(self.rows):
            for position, ops in enumerate(row):
                for member, op in enumerate(ops):
                    if isinstance(op, Transfer):
                        yield rank, position, member

    def op(self, place: Place) -> Any:
        return self.rows[place[0]][place[1]][place[2]]

    def _named(self, place: Place) -> tuple[str, int, int, int]:
        """Name the message: direction, stage that makes it, stage that reads it, micro-batch."""
        op = self.op(place)
        sends = isinstance(op, Wait) or op.is_send
        onward = (op.kind == "F") == sends
        peers = (self.law.feeds if onward else self.law.fed_by)[op.stage]
        peer = op.peer if op.peer is not None else next(p for p in peers if self.home[p] != self.home[op.stage])
        return (op.kind, op.stage, peer, op.microbatch) if sends else (op.kind, peer, op.stage, op.microbatch)

    def _match(self) -> None:
        sends: dict[Any, list[Place]] = {}
        receives: dict[Any, list[Place]] = {}
        for place in self.places:
            message = self.names[place]
            channel = (self.home[message[1]], self.home[message[2]])
            key = message if self.discipline == "tagged" else channel
            (sends if self.op(place).is_send else receives).setdefault(key, []).append(place)
        for key, places in sends.items():
            for send, receive in zip(places, receives.get(key, []), strict=False):
                self.receive_of[send], self.send_of[receive] = receive, send

    # What follows from what

    def _pass(self) -> bool:
        before = len(self.known)
        for rank, row in enumerate(self.rows):
            for position, ops in enumerate(row):
                self._post(rank, position)
                if isinstance(ops[0], Op):
                    self._compute(rank, position)
                elif isinstance(ops[0], Wait):
                    self._wait(rank, position)
        for place in self.places:
            if self.op(place).is_send:
                self._transfer(place)
        return len(self.known) > before

    def _set(self, name: Any, times: list[int | None], more: int = 0) -> None:
        if name not in self.known and None not in times:
            self.known[name] = max((time for time in times if time is not None), default=0) + more

    def _post(self, rank: int, position: int) -> None:
        """The program comes to a step when the one before it is over, or at once behind communication."""
        name = ("posted", rank, position)
        if position == 0:
            self.known[name] = 0
        elif isinstance(self.rows[rank][position - 1][0], Op | Wait):
            self._set(name, [self.known.get(("end", (rank, position - 1)))])
        elif self.discipline == "block":
            members = range(len(self.rows[rank][position - 1]))
            self._set(name, [self.known.get(("complete", (rank, position - 1, member))) for member in members])
        else:
            self._set(name, [self.known.get(("posted", rank, position - 1))])

    def _wait(self, rank: int, position: int) -> None:
        """A wait is over when the rank has come to it and its send is complete, if that stands before it."""
        times = [self.known.get(("posted", rank, position))]
        send = self.sends.get(self._named((rank, position, 0)))
        if send is not None and send[:2] < (rank, position) and send[0] == rank:
            times.append(self.known.get(("complete", send)))
        self._set(("end", (rank, position)), times)

    def _compute(self, rank: int, position: int) -> None:
        together, fringe = set(), [(rank, position)]
        while fringe:
            place = fringe.pop()
            if place not in together:
                together.add(place)
                fringe += [other for op in self.rows[place[0]][place[1]] for other in self.where[op]]
        times = [self.known.get(("posted", *place)) for place in together]
        for place in together:
            for op in self.rows[place[0]][place[1]]:
                times += [self._there(op, needed) for needed in self.law.reads(op) if needed in self.where]
        self._set(("start", (rank, position)), times)
        ops = self.rows[rank][position]
        self._set(("end", (rank, position)), [self.known.get(("start", (rank, position)))], self._cost(ops))
        for op in ops:
            self._set(("made", op), [self.known.get(("end", place)) for place in self.where[op]])

    def _there(self, op: Op, needed: Op) -> int | None:
        if self.home[op.stage] == self.home[needed.stage]:
            return self.known.get(("made", needed))
        message = ("F" if needed.kind == "F" else "B", needed.stage, op.stage, op.microbatch)
        place = self.receives.get(message)
        before = place is not None and place[1] < min(p for r, p in self.where[op] if r == place[0])
        return self.known.get(("complete", place)) if before else None

    def _cost(self, ops: list[Op]) -> int:
        if len(ops) == 2:
            stages = {op.kind: op.stage for op in ops}
            if (stages["F"], stages["B"]) in self.overlapped:
                return self.overlapped[stages["F"], stages["B"]]
        names = {"F": "forward", "B": "backward", "I": "backward_input", "W": "backward_weight"}
        again = [self.costs["forward"][op.stage] for op in ops if op.kind in "BI" and self.law.recompute[op.stage]]
        return sum(self.costs[names[op.kind]][op.stage] for op in ops) + sum(again)

    def _ahead(self, place: Place) -> list[Place]:
        """Return the sends and receives of the same rank that stand before one in its queue."""
        return [p for p in self.places if p[0] == place[0] and p[1] < place[1] and self._queue(p) == self._queue(place)]

    def _queue(self, place: Place) -> Any:
        _, source, target, _ = self.names[place]
        ends = (self.home[source], self.home[target])
        if self.discipline in ("buffered", "edge"):
            return ends
        return frozenset(ends) if self.discipline == "pair" else place[0]

    def _head(self, place: Place) -> list[int | None]:
        """When a send or receive is at the head of the queue on its own rank."""
        ahead = [self.known.get(("free", other)) for other in self.ahead.get(place, ())]
        return [self.known.get(("posted", *place[:2])), *ahead]

    def _transfer(self, send: Place) -> None:
        kind, source, target, microbatch = self.names[send]
        size = self.links["bytes"][source if kind == "F" else target]
        ends = (self.home[source], self.home[target])
        bandwidth = entry_of(self.links.get("bandwidth"), *ends)
        occupied = -(-size // bandwidth) if bandwidth else 0
        latency = entry_of(self.links["latency"], *ends)
        makers = [op for op in self.where if (op.stage, op.microbatch) == (source, microbatch)]
        made = [self.known.get(("made", op)) for op in makers if op.kind in ("F" if kind == "F" else "BI")]
        eager = size <= (self.eager_bytes or -1)
        alone = eager or self.discipline in ("tagged", "buffered")
        receive = self.receive_of.get(send)
        if alone:
            self._set(("start", send), [*self._head(send), *made])
            self._set(("complete", send), [self.known.get(("start", send))], 0 if eager else occupied)
            self._set(("free", send), [self.known.get(("start", send))], occupied)
            if receive is not None:
                self._set(("start", receive), [*self._head(receive), self.known.get(("start", send))])
                self._set(("free", receive), [*self._head(receive), self.known.get(("free", send))])
                moved = self.known.get(("free", send))
                arrival = None if moved is None else moved + latency
                self._set(("complete", receive), [*self._head(receive), arrival])
        elif receive is not None:
            self._set(("start", send), [*self._head(send), *made, *self._head(receive)])
            start = [self.known.get(("start", send))]
            self._set(("start", receive), start)
            for end in (send, receive):
                self._set(("free", end), start, occupied)
            self._set(("complete", send), start, occupied)
            self._set(("complete", receive), start, occupied + latency)
