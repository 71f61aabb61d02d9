"""What may be appended to a set of operations done, and what it does; see :mod:`brute_force`."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import Any, NamedTuple

from oracle.law import KINDS, Law, Op
from oracle.times import Clock

Step = tuple[str, int, int]
"""``F``, ``G`` (B or I, whichever makes the gradient) or ``W``, with stage and micro-batch."""

PEAK, WORST, FIRST = 0, 1, 2
"""Where in the numbers of a state the peak, the worst and what each rank has of its own stand; the steps are behind."""


class Move(NamedTuple):
    """An operation that may be appended next, and what it does to every state with the same operations done.

    Attributes
    ----------
    done
        The operations that are done after it, as bits.
    peak
        The most bytes that one of its ranks holds while it runs.
    start, cost
        The place of its earliest start, and its ticks.
    cleared, busy
        The places of the earliest starts that mean nothing any more, and of those that wait for one of its ranks.
    fed
        The places of the steps that read its output, and the ticks until they can.
    begun, ended
        The places of the ranks that it is the first on, and the last on.
    """

    op: Op
    done: int
    peak: int
    start: int
    cost: int
    cleared: tuple[int, ...]
    busy: tuple[int, ...]
    fed: tuple[tuple[int, int], ...]
    begun: tuple[int, ...]
    ended: tuple[int, ...]


class Moves:
    """The operations of a problem as bits, its steps as places in the numbers of a state."""

    def __init__(self, data: dict[str, Any], *, fifo: bool = False) -> None:
        self.clock = Clock([[] for _ in range(data["ranks"])], data)
        self.law: Law = self.clock.case.law
        self.pairs = list(self.law.pairs())
        self.kinds = KINDS[self.law.form]
        self.bit = {
            op: 1 << i for i, op in enumerate(Op(kind, *pair) for pair in self.pairs for kind in self.kinds)
        }  # fmt: skip
        letters = {"FB": "FG", "FBIW": "FGW", "F": "F"}[self.kinds]
        steps = [(letter, *pair) for pair in self.pairs for letter in letters]
        self.first_place = FIRST + self.law.ranks
        self.place = {step: self.first_place + i for i, step in enumerate(steps)}
        self.settled = {step: self._bits(_settling(*step)) for step in steps}
        self.needs = {op: list(self._needs(op, fifo)) for op in self.bit}
        self.fed = {op: list(self._fed(op)) for op in self.bit}
        self.known: dict[int, list[Move]] = {}
        self.on_rank = [[step for step in steps if rank in self.law.ranks_of[step[1]]] for rank in range(data["ranks"])]

    def from_set(self, done: int) -> list[Move]:
        """Return the operations that may be appended to a set."""
        if done not in self.known:
            self.known[done] = list(self._from_set(done))
        return self.known[done]

    def _from_set(self, done: int) -> Iterator[Move]:
        books = [_Books(self, done, rank) for rank in range(self.law.ranks)]
        for op in self.bit:
            ready = not done & self.settled[step_of(op)] and all(done & need for need in self.needs[op])
            if ready and all(books[rank].admits(op) for rank in self.law.ranks_of[op.stage]):
                yield self._move(op, done, books)

    def all_done(self, done: int) -> bool:
        """Whether nothing is left."""
        return all(done & bits for bits in self.settled.values())

    @cached_property
    def any_of(self) -> list[int]:
        """By rank, the bits of all its operations."""
        return [
            sum(bit for op, bit in self.bit.items() if rank in self.law.ranks_of[op.stage])
            for rank in range(self.law.ranks)
        ]

    def _move(self, op: Op, done: int, books: list[_Books]) -> Move:
        after, ranks, step = done | self.bit[op], self.law.ranks_of[op.stage], step_of(op)
        left = {rank: [other for other in self.on_rank[rank] if not after & self.settled[other]] for rank in ranks}
        needless = [("W", *op.pair)] if op.kind == "B" and "W" in self.kinds else []
        return Move(
            op=op,
            done=after,
            peak=max(books[rank].during(op) for rank in ranks),
            start=self.place[step],
            cost=self.clock.cost_of(op),
            cleared=tuple(self.place[other] for other in [step, *needless]),
            busy=tuple({self.place[other] for steps in left.values() for other in steps}),
            fed=tuple((self.place[reader], lag) for reader, lag in self.fed[op] if not after & self.settled[reader]),
            begun=tuple(FIRST + rank for rank in ranks if not done & self.any_of[rank]),
            ended=tuple(FIRST + rank for rank in ranks if not left[rank]),
        )

    def _needs(self, op: Op, fifo: bool) -> Iterator[int]:
        """Yield the bits of which at least one must be done: for each input, and for the micro-batches before."""
        for source in {step_of(read) for read in self.law.reads(op)}:
            yield self._bits([read for read in self.law.reads(op) if step_of(read) == source])
        if fifo:
            for earlier in range(op.microbatch % self.law.slices, op.microbatch, self.law.slices):
                if self.law.passes(op.stage, earlier):
                    yield self._bits(_settling(step_of(op)[0], op.stage, earlier))

    def _fed(self, op: Op) -> Iterator[tuple[Step, int]]:
        """Yield the steps that read an operation's output, and the ticks until they can."""
        readers = {step_of(reader): reader for reader in self.bit if op in self.law.reads(reader)}
        for step, reader in readers.items():
            yield step, self.clock.lag(op, reader)

    def _bits(self, ops: list[Op]) -> int:
        return sum(self.bit.get(op, 0) for op in ops)


class _Books:
    """What one rank holds between two of its steps."""

    def __init__(self, moves: Moves, done: int, rank: int) -> None:
        self.law, self.rank = moves.law, rank
        self.bytes = self.law.static[rank]
        self.flying: list[int] = []
        for stage, m in moves.pairs:
            if rank not in self.law.ranks_of[stage] or not done & moves.bit[Op("F", stage, m)]:
                continue
            if self.law.form != "inference" and not done & moves.settled["G", stage, m]:
                self.flying.append(stage)
                self.bytes += self.law.kept(stage)
            elif self.law.form == "split" and not done & moves.settled["W", stage, m]:
                self.bytes += self.law.weight_stash[stage]

    def during(self, op: Op) -> int:
        """Return the bytes that the rank holds while an operation runs."""
        if op.kind == "F":
            return self.bytes + self.law.kept(op.stage)
        again = op.kind in "BI" and self.law.recompute[op.stage]
        return self.bytes + (self.law.activation[op.stage] - self.law.boundary[op.stage] if again else 0)

    def admits(self, op: Op) -> bool:
        """Whether the bytes and the pairs in flight stay within the limits while an operation runs."""
        law, stage = self.law, op.stage
        flying = self.flying + [stage] * (op.kind == "F")
        return (
            (law.capacity is None or self.during(op) <= law.capacity[self.rank])
            and (law.in_flight is None or len(flying) <= law.in_flight[self.rank])
            and (law.in_flight_stage is None or flying.count(stage) <= law.in_flight_stage[stage])
        )


def step_of(op: Op) -> Step:
    """Return the step that an operation is."""
    return ("G" if op.kind in "BI" else op.kind, *op.pair)


def _settling(letter: str, stage: int, m: int) -> list[Op]:
    """Return the operations of which any makes a step done, or needless: a W after a B."""
    return [Op(kind, stage, m) for kind in {"F": "F", "G": "BI", "W": "BW"}[letter]]
