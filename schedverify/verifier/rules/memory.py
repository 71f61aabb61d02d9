"""SV4: what a rank holds stays within its limits, whatever the durations."""

from __future__ import annotations

import operator
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np

from schedverify.core.op import Kind, Op
from schedverify.core.problem import Problem
from schedverify.core.result import Violation
from schedverify.core.timeline import Measures
from schedverify.simulator.metrics import peak_in_flight
from schedverify.verifier.rules.base import Case, NotApplicable, rule

Pair = tuple[int, int]
"""A stage and a micro-batch."""


@rule("SV401", "in flight within the limits")
def in_flight(case: Case) -> Iterator[Violation]:
    """The micro-batches in flight stay within the limits.

    What it checks

    On each rank, the pairs (stage, micro-batch) from the step that holds their F to the end of the step that holds
    their B or I (inference: of the F) stay within `in_flight` for the rank, all its stages together, and within
    `in_flight_stage` for each stage. With a split backward this does not bound memory while W waits.

    Why it matters

    Every pair in flight holds the activations of a whole stage. One more than planned is the usual way to run out of
    memory hours into a run, on one rank only.

    Example

    With `in_flight = 1`, `0F0 0F1 0B0 0B1` holds two pairs at position 1.

    Formally

    For every rank r and position i: the number of (s, m) whose F stands in the order of r at or before i, and whose
    B or I does not stand before i, is at most in_flight(r); for each s alone, at most in_flight_stage(s).
    """
    problem = case.problem
    if problem.in_flight is None and problem.in_flight_stage is None:
        raise NotApplicable(
            "the problem limits no micro-batches in flight", "limits.in_flight or limits.in_flight_stage does"
        )
    for rank in () if case.ran and _few(case, case.ran) else range(case.schedule.ranks):
        seen: set[str] = set()
        for position, pairs in enumerate(_flights(case, rank)):
            for what, count, limit in _counts(problem, rank, pairs):
                if count > limit and what not in seen:
                    seen.add(what)
                    message = f"rank {rank} has {count} micro-batches in flight {what} at position {position}; "
                    yield Violation("SV401", f"{message}the limit is {limit}", rank, position,
                                    _step(case, rank, position), _named(pairs, what))  # fmt: skip


@rule("SV402", "bytes within the capacity")
def bytes_held(case: Case) -> Iterator[Violation]:
    """The bytes on each rank stay within its capacity.

    What it checks

    `static`, plus `activation` of each stage and micro-batch from the start of F; of it, `weight_stash` from the end
    of I to the end of W; the rest is free at the end of B or I (inference: all of it at the end of F). A stage that
    recomputes keeps `boundary` instead, and its B or I holds `activation` in place of it while it runs. In a lowered
    schedule what is received counts from the receive to the end of the next step that reads it. Where any `WAIT_SEND`
    stands in a rank's order, what is sent counts there too, each message on its own, until its wait is over, or to the
    end: a gradient from the start of the step that makes it, an activation from the end of its B or I (inference: of
    its F), until which its bytes are among the activations.

    Why it matters

    A split backward frees the input part early and lets W wait; each waiting W still holds its stash. A schedule that
    is within its in-flight limit can run out of memory all the same.

    Example

    With `activation = 2`, `weight_stash = 1` and `capacity = 3`, `0F0 0I0 0F1 0F2` holds 1 + 2 + 2 = 5 at position 3.

    Formally

    For every rank r and position i: static(r) plus the sum over all (s, m) of what the operations of (s, m) in the
    order of r up to i leave held, plus activation(s) - boundary(s) for each B or I of a recomputing stage in the step
    at i, plus the bytes of every receive at or before i behind which no step that reads it ends before i, plus, if a
    WAIT_SEND stands in the order of r, the bytes of every send whose gradient is made at or before i, or whose
    activation's B or I (inference: F) stands before i, and the wait for which does not stand before i, is at most
    capacity(r). What makes a gradient, or ends an activation, and does not stand counts as done before the order
    begins; an activation whose F stands without its B or I counts with the pair alone.
    """
    problem = case.problem
    if problem.capacity is None:
        raise NotApplicable("the problem limits no memory", "memory.capacity does")
    peaks = case.ran.peak_memory if case.ran else None
    for rank, capacity in enumerate(problem.capacity):
        if peaks and peaks[rank] <= capacity:
            continue
        levels = _Bytes(case, rank).levels()
        over = next(((i, live_bytes) for i, live_bytes in enumerate(levels) if live_bytes > capacity), None)
        if over is not None:
            position, live_bytes = over
            message = f"rank {rank} holds {problem.units.over(live_bytes, capacity)}, at position {position}"
            yield Violation("SV402", message, rank, position, _step(case, rank, position))


def _pair(op: Op) -> Pair:
    return op.stage, op.microbatch or 0


def _few(case: Case, ran: Measures) -> bool:
    """Whether the limits are kept, by the peaks of a schedule that has run."""
    problem, rows = case.problem, case.schedule.rows
    if problem.in_flight is not None and any(map(operator.gt, ran.peak_in_flight, problem.in_flight)):
        return False
    limits = enumerate(problem.in_flight_stage or ())
    places = ((stage, rank, limit) for stage, limit in limits for rank in problem.placement[stage])
    return all(peak_in_flight(rows[rank], problem, stage) <= limit for stage, rank, limit in places)


def _flights(case: Case, rank: int) -> Iterator[dict[Pair, None]]:
    """Yield the pairs in flight while each step of a rank runs."""
    ends = (Kind.F,) if case.problem.form == "inference" else (Kind.B, Kind.I)
    unfinished: dict[Pair, None] = dict.fromkeys(pair for pair, kind in _before(case, rank).items() if kind != Kind.W)
    for ops in case.occurrences.steps[rank]:
        unfinished.update(dict.fromkeys(_pair(op) for op in ops if op.kind == Kind.F))
        yield unfinished
        for op in ops:
            if op.kind in ends:
                unfinished.pop(_pair(op), None)


def _counts(problem: Problem, rank: int, pairs: dict[Pair, None]) -> Iterator[tuple[str, int, int]]:
    """Yield each limit of a rank: in what, how many pairs are there, how many may be."""
    if problem.in_flight is not None:
        yield "over its stages", len(pairs), problem.in_flight[rank]
    if problem.in_flight_stage is not None:
        for stage, count in Counter(stage for stage, _ in pairs).items():
            yield f"on stage {stage}", count, problem.in_flight_stage[stage]


def _named(pairs: dict[Pair, None], what: str) -> tuple[str, ...]:
    """Return the operations that hold the pairs a limit counts."""
    return tuple(str(Op(Kind.F, *pair)) for pair in pairs if what in ("over its stages", f"on stage {pair[0]}"))


def _step(case: Case, rank: int, position: int) -> tuple[str, ...]:
    ops = case.occurrences.steps[rank][position] or case.schedule.step(rank, position).ops
    return tuple(map(str, ops))


def _before(case: Case, rank: int) -> dict[Pair, Kind]:
    """Return the pairs that an excerpt holds before it begins, with the kind that shows it: B, I, or W alone."""
    if not case.excerpt:
        return {}
    places = case.occurrences.places
    found: dict[Pair, Kind] = {}
    for ops in case.occurrences.steps[rank]:
        for op in ops:
            pair = _pair(op)
            if op.kind != Kind.F and Op(Kind.F, *pair) not in places:
                found[pair] = min(op.kind, found.get(pair, op.kind))
    made = (Kind.B, Kind.I)
    return {p: k for p, k in found.items() if k in made or not any(Op(kind, *p) in places for kind in made)}


def _arriving(case: Case, rank: int) -> dict[int, list[tuple[tuple[bool, int, int], int]]]:
    """Return by position what a rank receives: for whom (gradient or not, stage, micro-batch), and how many bytes."""
    if not case.has_transfers:
        return {}
    transfers = case.transfers
    entries = np.arange(*np.searchsorted(transfers.rank, (rank, rank + 1)))
    entries = entries[~transfers.is_send[entries] & transfers.sound[entries]]
    columns = (transfers.position, transfers.backward, transfers.stage, transfers.microbatch, transfers.size)
    found: dict[int, list[tuple[tuple[bool, int, int], int]]] = {}
    for position, backward, stage, m, size in zip(*(column[entries].tolist() for column in columns), strict=True):
        found.setdefault(position, []).append(((backward, stage, m), size))
    return found


def _sent(case: Case, rank: int) -> dict[int, int]:
    """Return by position by how much the bytes of what a rank sends are more while its step runs than before it.

    Empty where the rank waits for no send, and so lets nothing go.
    """
    if not case.has_transfers or not (case.transfers.waits.rank == rank).any():
        return {}
    transfers, waits = case.transfers, case.transfers.waits
    found: Counter[int] = Counter()
    for entry in np.flatnonzero(transfers.is_send & transfers.sound & (transfers.rank == rank)).tolist():
        since, wait = _held_since(case, rank, entry), int(waits.until[entry])
        until = int(waits.position[wait]) if wait >= 0 else None
        if since is not None and (until is None or since <= until):
            found[since] += int(transfers.size[entry])
            if until is not None:
                found[until + 1] -= int(transfers.size[entry])
    return found


def _held_since(case: Case, rank: int, entry: int) -> int | None:
    """Return the first position at which the bytes of what an entry sends count, or None where they never do."""
    transfers = case.transfers
    pair = int(transfers.stage[entry]), int(transfers.microbatch[entry])
    inference = case.problem.form == "inference"
    gradients = [_first(case, rank, kind, pair) for kind in (Kind.B, Kind.I)]
    made = min((position for position in gradients if position is not None), default=None)
    if transfers.backward[entry]:
        return made or 0
    forward = _first(case, rank, Kind.F, pair)
    ended = forward if inference else made
    if ended is not None:
        return ended + 1
    return 0 if forward is None else None


def _first(case: Case, rank: int, kind: Kind, pair: Pair) -> int | None:
    """Return the first position of an operation on a rank."""
    places = case.occurrences.places.get(Op(kind, *pair), ())
    return next((position for on, position in places if on == rank), None)


@dataclass
class _Bytes:
    """The bytes that the pairs of one rank hold: in full, or after I those of what waits for W; and what is unread.

    That is what is received and not yet read. No pair is in ``full`` and ``reduced`` at once. ``sent`` is what is held
    of sends until they are waited for.
    """

    case: Case
    rank: int
    full: dict[Pair, int] = field(default_factory=dict)
    reduced: dict[Pair, int] = field(default_factory=dict)
    unread: dict[tuple[bool, int, int], int] = field(default_factory=dict)
    level: int = 0

    def levels(self) -> Iterator[int]:
        """Yield the bytes held while each step runs."""
        self.level = self.case.problem.static[self.rank]
        for pair, kind in _before(self.case, self.rank).items():
            self._hold(pair) if kind != Kind.W else self._reduce(pair)
        arriving, sent = _arriving(self.case, self.rank), _sent(self.case, self.rank)
        for position, ops in enumerate(self.case.occurrences.steps[self.rank]):
            for tensor, size in arriving.get(position, ()):
                self.unread[tensor] = self.unread.get(tensor, 0) + size
                self.level += size
            self.level += sent.get(position, 0)
            for op in ops:
                if op.kind == Kind.F:
                    self._hold(_pair(op))
            made_again = {_pair(op) for op in ops if op.kind in (Kind.B, Kind.I)}
            yield self.level + sum(self._extra(stage) for stage, _ in made_again & self.full.keys())
            for op in ops:
                self._end(op)

    def _hold(self, pair: Pair) -> None:
        self._free(pair)
        self.full[pair] = self.case.problem.saved_activation_bytes[pair[0]]
        self.level += self.full[pair]

    def _reduce(self, pair: Pair) -> None:
        self._free(pair)
        self.reduced[pair] = self.case.problem.weight_stash[pair[0]]
        self.level += self.reduced[pair]

    def _free(self, pair: Pair) -> None:
        self.level -= self.full.pop(pair, 0) + self.reduced.pop(pair, 0)

    def _extra(self, stage: int) -> int:
        """Return what a backward holds of a stage, while it runs, beyond what its F saved."""
        return self.case.problem.activation[stage] - self.case.problem.saved_activation_bytes[stage]

    def _end(self, op: Op) -> None:
        pair = _pair(op)
        if op.kind != Kind.W:
            self.level -= self.unread.pop((op.kind != Kind.F, *pair), 0)
        if op.kind == Kind.B or (op.kind == Kind.F and self.case.problem.form == "inference"):
            self._free(pair)
        elif op.kind == Kind.I and pair in self.full:
            self._reduce(pair)
        elif op.kind == Kind.W and pair in self.reduced:
            self._free(pair)
