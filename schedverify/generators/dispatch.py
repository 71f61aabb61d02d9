"""One pass of list scheduling over a chain with a split backward: what each rank runs next, within its memory."""

from __future__ import annotations

import heapq
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from schedverify.core.ending import Check, go_on
from schedverify.core.op import KIND_SHIFT, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule


class MemoryBudget(NamedTuple):
    """What the ranks may hold, in bytes or any other unit that is the same for all.

    Attributes
    ----------
    limits
        By rank, the most that it may hold.
    saved
        By stage, what its F saves until its I ends.
    stash
        By stage, what of it waits on from the end of I until its W ends.
    extra
        By stage, what its I needs beside that while it runs.
    ahead
        By stage, the most micro-batches that may have run F and not I.
    """

    limits: Sequence[int]
    saved: Sequence[int]
    stash: Sequence[int]
    extra: Sequence[int]
    ahead: Sequence[int]


@dataclass(slots=True, eq=False)
class OpStream:
    """The operations of one kind and stage, one for each micro-batch, in order.

    Attributes
    ----------
    kind, stage, rank
        The kind and stage of the operations, and the rank that runs them.
    ticks
        The duration of one operation.
    way
        Ticks from an operation's start to the end of the last I of its micro-batch, transfers included; 0 for W.
    need
        How much memory must be free before one may start.
    change
        How much more the rank holds after one has ended; negative where it frees memory.
    ahead
        The most operations by which the stream may lead the stream ``after`` it.
    feeds
        The streams that read its outputs, each with the ticks that the transfer takes.
    arrivals
        The ticks at which the inputs of the first, second, ... operation are there, as far as they are known.
    done
        How many operations have run.
    """

    kind: Kind
    stage: int
    rank: int
    ticks: int
    need: int
    change: int
    way: int = 0
    ahead: int = 0
    after: OpStream | None = None
    feeds: list[tuple[OpStream, int]] = field(default_factory=list)
    arrivals: list[int] = field(default_factory=list)
    done: int = 0


def streams(problem: Problem, room: MemoryBudget) -> list[list[OpStream]]:
    """Return by stage its streams of F, I and W, for a pass that is about to begin; a stage is on its first rank.

    F needs memory for the F of its rank's later stages as well, and for what an I needs while it runs: a micro-batch
    that has begun on a rank can then go on there, once W has freed what it holds. What is held changes::

        saved     |       +-----------+
        stash     |       |           +-----+
        0         +-------+                 +----
                      F   end of F    I     W
    """
    made = []
    for stage, rank in enumerate(problem.owner_rank):
        own = [other for other in problem.stages_of[rank] if problem.owner_rank[other] == rank]
        later = sum(room.saved[other] for other in own if other >= stage)
        needs = (later + max(room.extra[other] for other in own), room.extra[stage], 0)
        saved, stash = room.saved[stage], room.stash[stage]
        rows = zip((Kind.F, Kind.I, Kind.W), needs, (saved, stash - saved, -stash), strict=True)
        made.append([OpStream(k, stage, rank, problem.duration(k, stage), n, c) for k, n, c in rows])
    _connect(problem, made, room.ahead)
    return made


def _connect(problem: Problem, made: list[list[OpStream]], ahead: Sequence[int]) -> None:
    """Set which stream feeds which, with what lag, and how long each one's way to the end is.

    For a chain of three stages, with ``I`` also feeding the stage's own ``W``::

        F0 -> F1 -> F2
                     |
        I0 <- I1 <- I2        the way of I0 is its own ticks, that of F0 goes through all six
    """
    way = 0
    for stage, (forward, gradient, weight) in enumerate(made):
        forward.ahead, forward.after = ahead[stage], gradient
        lag = problem.backward_lag(stage, stage - 1) if stage else 0
        gradient.feeds = [(made[stage - 1][1], lag)] * (stage > 0) + [(weight, 0)]
        gradient.way = way = way + gradient.ticks + lag
    after, lag = made[-1][1], 0
    for stage in reversed(range(problem.stages)):
        forward = made[stage][0]
        forward.feeds = [(after, lag)]
        forward.way = way = way + forward.ticks + lag
        after, lag = forward, problem.forward_lag(stage - 1, stage) if stage else 0
    after.arrivals = [0] * problem.microbatches


class DispatchPolicy(NamedTuple):
    """How a rank chooses. Shares are in tenths and quarters, since no float decides anything.

    Attributes
    ----------
    age
        Of the F and I that are ready, that with the longest way to the end goes first; an older micro-batch is ahead
        by ``age`` tenths of the busiest rank's work for one. None: F and I in turn, and of one kind the longest way.
    patience
        An op waits for one that goes before it and is known to come, where more than so many quarters of it would
        stand in that one's way.
    filling
        How many quarters of a W may stand in the way of what comes next. None: all of it, where the rank would else
        be the one that has been idle longest.
    weights_first
        Whether W goes before I where an F waits for memory.
    """

    age: int | None
    patience: int
    filling: int | None
    weights_first: bool = False


def dispatch(problem: Problem, room: MemoryBudget, policy: DispatchPolicy, check: Check = go_on) -> Schedule:
    """Return the schedule in which each rank, whenever it is free, runs what the policy says, within its room.

    Each stage runs its micro-batches in order, and its ranks, where it has several, as the first of them does. It
    always ends: W never waits, and once it has freed what it holds, the oldest micro-batch can go on everywhere.
    """
    rows = _Pass(problem, room, policy).rows(check)
    return Schedule(rows[problem.owner_rank[stages[0]]] if stages else [] for stages in problem.stages_of)


class _Option(NamedTuple):
    """An F or I that a rank could run next; the first in their order goes first.

    Attributes
    ----------
    again
        Whether it is of the kind that ran last, where kinds take turns.
    urgency
        The less, the more urgent: the micro-batch's age against its way to the end.
    arrival
        The tick at which its input is there.
    place
        Its stream's place on the rank, so that no two options are equal.
    stream
        The stream of which it is the next operation.
    """

    again: bool
    urgency: int
    arrival: int
    place: int
    stream: OpStream


class _Pass:
    """The state of a pass: by rank its streams, what it holds, when it is free, and how long it has been idle.

    Time goes from event to event: an event is a tick at which a rank should look for something to run.
    """

    def __init__(self, problem: Problem, room: MemoryBudget, policy: DispatchPolicy) -> None:
        ranks = range(problem.ranks)
        self.policy, self.limits = policy, room.limits
        self.flows: list[list[OpStream]] = [[] for _ in ranks]
        self.weights: list[list[OpStream]] = [[] for _ in ranks]
        for *flows, weight in streams(problem, room):
            self.flows[weight.rank] += flows
            self.weights[weight.rank].append(weight)
        work = (sum(s.ticks for s in (*self.flows[rank], *self.weights[rank])) for rank in ranks)
        self.pace = (policy.age or 0) * max(work)
        self.in_use, self.free, self.idle = [0 for _ in ranks], [0 for _ in ranks], [0 for _ in ranks]
        self.last: list[Kind | None] = [None for _ in ranks]
        self.words: list[list[int]] = [[] for _ in ranks]
        self.events = [(0, rank) for rank in ranks]

    def rows(self, check: Check) -> list[list[int]]:
        """Run to the end, in the order of time; return the packed operations of each rank."""
        while self.events:
            check()
            now, rank = heapq.heappop(self.events)
            if self.free[rank] <= now:
                self._turn(rank, now)
        return self.words

    def _turn(self, rank: int, now: int) -> None:
        """Let a free rank run an operation, or come back when the next input is there."""
        options, full = self._options(rank, now)
        best = self._best(options, now)
        first = full and self.policy.weights_first
        if best is None or (first and best.kind is Kind.I):
            next_arrival = min((option.arrival for option in options if option.arrival > now), default=None)
            weight = self._weight(rank)
            if weight is not None and (first or next_arrival is None or self._fills(weight, next_arrival - now)):
                best = weight
        if best is not None:
            self._run(best, now)
        elif next_arrival is not None:
            heapq.heappush(self.events, (next_arrival, rank))

    def _options(self, rank: int, now: int) -> tuple[list[_Option], bool]:
        """Return the F and I that a rank has memory for, in their order, and whether one waits for memory."""
        options, full = [], False
        room, age, last = self.limits[rank] - self.in_use[rank], self.policy.age, self.last[rank]
        for place, stream in enumerate(self.flows[rank]):
            done = stream.done
            if done == len(stream.arrivals) or (stream.after and done - stream.after.done >= stream.ahead):
                continue
            arrival = stream.arrivals[done]
            if stream.need <= room:
                again = age is None and stream.kind is last
                options.append(_Option(again, done * self.pace - 10 * stream.way, arrival, place, stream))
            elif arrival <= now:
                full = True
        options.sort()
        return options, full

    def _best(self, options: list[_Option], now: int) -> OpStream | None:
        """Return the first stream whose input is there, unless it waits for one before it."""
        until = None
        for _, _, arrival, _, stream in options:
            if arrival <= now:
                waits = until is not None and 4 * (now + stream.ticks - until) > self.policy.patience * stream.ticks
                return None if waits else stream
            until = arrival if until is None else min(until, arrival)
        return None

    def _weight(self, rank: int) -> OpStream | None:
        """Return the stream that has the W of the oldest micro-batch to run."""
        ready = [stream for stream in self.weights[rank] if stream.done < len(stream.arrivals)]
        return min(ready, key=lambda stream: stream.done, default=None)

    def _fills(self, weight: OpStream, gap: int) -> bool:
        """Whether W may run though the gap until the next F or I may be too short for it."""
        if self.policy.filling is None:
            return gap >= weight.ticks or self.idle[weight.rank] + gap > max(self.idle)
        return 4 * (weight.ticks - gap) <= self.policy.filling * weight.ticks

    def _run(self, stream: OpStream, now: int) -> None:
        """Run the next operation of a stream, and wake the ranks that its end concerns and that are free."""
        rank, end = stream.rank, now + stream.ticks
        if self.words[rank]:
            self.idle[rank] += now - self.free[rank]
        self.words[rank].append(stream.kind << KIND_SHIFT | stream.stage << STAGE_SHIFT | stream.done)
        stream.done += 1
        self.in_use[rank] += stream.change
        self.free[rank] = end
        if stream.kind is not Kind.W:
            self.last[rank] = stream.kind
        heapq.heappush(self.events, (end, rank))
        for other, lag in stream.feeds:
            other.arrivals.append(end + lag)
            if self.free[other.rank] <= now:
                heapq.heappush(self.events, (now, other.rank))
