"""What waits for what in a lowered schedule under a discipline, with the ticks between: one directed graph.

Nodes are starts: of compute steps (those that start as one are one node) and of transfers. A transfer that needs both
ends is one node; where the send goes alone (``tagged``, ``buffered``, eager messages), send and receive are a node
each. A wait for a send is a node too, at which its rank's program goes on. Entries of several members in one queue have
a node of their own that stands for their end. The longest path to a node is when it starts, in ticks. The rules stand
in semantics, section 4, and docs/explanation/timelines.md.
"""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

import numpy as np

from schedverify.core.discipline import Discipline
from schedverify.core.messages import expanded
from schedverify.core.op import MICROBATCH_MASK, Kind
from schedverify.core.schedule import IntArray, kinds, op_stages
from schedverify.simulator.p2p_program import LoweredProgram, MatchedTransfers


class Why(IntEnum):
    """Why one event waits for another."""

    ORDER = 0
    """Its rank has not come to it."""
    INPUT = 1
    """It reads, or sends, what the other makes."""
    RECEIVED = 2
    """It reads what is still to be received."""
    QUEUE = 3
    """The other stands before it in a queue of the rank."""
    SENT = 4
    """It receives what the other sends alone."""
    COMPLETE = 5
    """It is a wait, and the other the send that it is for."""


class Edges(NamedTuple):
    """Arrays of one entry an edge: ``head`` starts no earlier than ``lag`` ticks after ``tail``.

    Attributes
    ----------
    tail, head
        Nodes; shape (edges,), as all here.
    rank
        The rank on account of which ``head`` waits.
    why
        Why it does, as :class:`Why`.
    """

    tail: IntArray
    head: IntArray
    lag: IntArray
    rank: IntArray
    why: IntArray


def _edges(tail: IntArray, head: IntArray, lag: IntArray, rank: IntArray, why: Why) -> Edges:
    """Return edges that all have one reason."""
    return Edges(tail, head, lag, rank, np.full(len(tail), why))


class Leaving(NamedTuple):
    """When members of a queue are done with it: so many ticks after the start of a node.

    A member that stands here several times is done when the last of these is over. Arrays of one shape.

    Attributes
    ----------
    entry
        The number of the member.
    node, lag
        The node after whose start it is done, and the ticks between.
    """

    entry: IntArray
    node: IntArray
    lag: IntArray


class Events:
    """The events of a lowered schedule.

    Attributes
    ----------
    sends, receives
        By transfer, the node of its start at either end.
    alone, eager
        By transfer, whether the send goes without its receive, and whether it is complete at once as well.
    count
        How many nodes there are. Compute steps and waits have the numbers of their steps.
    """

    def __init__(
        self, program: LoweredProgram, transfers: MatchedTransfers, discipline: Discipline, eager_bytes: int
    ) -> None:
        self.program, self.transfers, self.discipline = program, transfers, discipline
        steps, size = len(program.step_rank), len(transfers.send)
        self.eager = transfers.size <= (eager_bytes or -1)
        self.alone = self.eager | (discipline in (Discipline.TAGGED, Discipline.BUFFERED))
        self.sends = steps + np.arange(size)
        self.receives = np.where(self.alone, self.sends + size, self.sends)
        self.count = steps + 2 * size
        self.ends = np.concatenate((transfers.send, transfers.receive))
        self.nodes = np.concatenate((self.sends, self.receives))
        self.step, self.rank = program.step[self.ends], program.rank[self.ends]
        self.edges = self._edges()

    @property
    def sent(self) -> IntArray:
        """By transfer, the ticks from the start of its send until that is complete."""
        return np.where(self.eager, 0, self.transfers.occupied)

    @property
    def done(self) -> IntArray:
        """By transfer, the ticks from its start until the receive is complete, where both ends have one start."""
        return self.transfers.occupied + self.transfers.latency

    def _edges(self) -> Edges:
        program, transfers = self.program, self.transfers
        node, ticks = program.makers
        alone = np.flatnonzero(self.alone)
        maker, origin = node[transfers.made], program.rank[transfers.send]
        target = program.rank[transfers.receive[alone]]
        parts = [
            self._local(),
            _edges(maker, self.sends, ticks[transfers.made], origin, Why.INPUT),
            self._received(),
            _edges(self.sends[alone], self.receives[alone], 0 * alone, target, Why.SENT),
            self._awaited(),
            self._programs(),
        ]
        queue = self._queue()
        if queue is not None:
            parts.append(self._chained(queue, self.step, self.nodes, self.rank, self._leaving(whole=False), Why.QUEUE))
        return Edges(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def _local(self) -> Edges:
        """Let each step wait for the outputs that no message brings."""
        reader, slot = local_inputs(self.program)
        node, ticks = self.program.makers
        waiting = self.program.node[self.program.step[reader]]
        return _edges(node[slot], waiting, ticks[slot], self.program.rank[reader], Why.INPUT)

    def _received(self) -> Edges:
        """Let each step wait until the tensors from other ranks that it reads are there."""
        leaving, size = self._leaving(whole=True), len(self.transfers.send)
        received = leaving.entry >= size
        transfer = leaving.entry[received] - size
        reader = readers(self.program, self.transfers)[transfer]
        ranks = self.program.rank[self.transfers.receive[transfer]]
        return _edges(leaving.node[received], reader, leaving.lag[received], ranks, Why.RECEIVED)

    def _awaited(self) -> Edges:
        """Let each wait end no earlier than its send is complete."""
        wait, send = self.transfers.wait, self.transfers.awaited
        return _edges(self.sends[send], wait, self.sent[send], self.program.step_rank[wait], Why.COMPLETE)

    def _leaving(self, *, whole: bool) -> Leaving:
        """Say when each end (sends, then receives) frees its queue or, as a whole, is complete.

        A send frees its queue after its occupation and is complete then, or at once where it is eager. A receive frees
        its queue with the send, and is complete when the lag is over too.
        """
        occupied, size = self.transfers.occupied, len(self.transfers.send)
        moved = occupied + self.transfers.latency if whole else occupied
        send = self.sent if whole else occupied
        receive = np.where(self.alone, 0, moved)
        alone = np.flatnonzero(self.alone)
        return Leaving(
            np.concatenate((np.arange(2 * size), alone + size)),
            np.concatenate((self.nodes, self.sends[alone])),
            np.concatenate((send, receive, moved[alone])),
        )

    def _queue(self) -> IntArray | None:
        """Return the queue of each end on its own rank, or None where nothing queues."""
        ranks, size = self.program.problem.ranks, len(self.transfers.send)
        if self.discipline is Discipline.TAGGED:
            return None
        if self.discipline in (Discipline.RANK, Discipline.BLOCK):
            return self.rank
        pair = self.rank * ranks + np.roll(self.rank, size)
        return pair if self.discipline is Discipline.PAIR else 2 * pair + np.repeat([0, 1], size)

    def _programs(self) -> Edges:
        """Let each step, send and receive wait until its rank comes to it."""
        program = self.program
        holds = np.flatnonzero(program.computes | program.waits)
        node = np.concatenate((program.node[holds], self.nodes))
        step = np.concatenate((holds, self.step))
        rank = np.concatenate((program.step_rank[holds], self.rank))
        after = Leaving(np.arange(len(holds)), program.node[holds], program.duration[holds])
        if self.discipline is Discipline.BLOCK:
            ends = self._leaving(whole=True)
            parts = zip(after, ends._replace(entry=ends.entry + len(holds)), strict=True)
            return self._chained(rank, step, node, rank, Leaving(*map(np.concatenate, parts)), Why.ORDER)
        last = np.searchsorted(holds, step) - 1
        found = last >= 0
        found[found] = program.step_rank[holds[last[found]]] == rank[found]
        tail = holds[last[found]]
        return _edges(program.node[tail], node[found], program.duration[tail], rank[found], Why.ORDER)

    def _chained(
        self, queue: IntArray, step: IntArray, node: IntArray, rank: IntArray, leaving: Leaving, why: Why
    ) -> Edges:
        """Let each member of a queue wait until the entry before it lets go; what has one step there is one entry.

        ``leaving`` says of members, by their numbers, when they let go: so many ticks after the start of a node, and of
        all of them where a member stands there several times. Of one queue with the members a; b and c of one step; d:

        .. code-block:: text

            node     a       b       c       d
            step     3       5       5       8
            begins   1       1       0       1         where an entry begins
            entry    0       1       1       2
            size     1       2               1         by entry
            whole            x                         the node that is added where an entry has several members

            outer    a -> b, a -> c                    with the ticks after which a lets go
            inner    b -> x, c -> x                    with those of b and c, so that x is when both have let go
            outer    x -> d                            at once
        """
        order = np.lexsort((step, queue))
        begins = np.ones(len(order), dtype=bool)
        begins[1:] = (np.diff(queue[order]) != 0) | (np.diff(step[order]) != 0)
        first = np.flatnonzero(begins)
        entry = np.empty(len(order), dtype=np.int64)
        entry[order] = np.cumsum(begins) - 1
        size = np.diff(np.append(first, len(order)))
        ends, lag = leaving.node, leaving.lag
        account = rank[leaving.entry]
        left = entry[leaving.entry]
        several = np.flatnonzero(size > 1)
        if len(several):
            whole = np.full(len(size), -1, dtype=np.int64)
            whole[several] = self.count + np.arange(len(several))
            self.count += len(several)
            grouped = whole[left] >= 0
            inner = _edges(ends[grouped], whole[left[grouped]], lag[grouped], account[grouped], why)
            left = np.concatenate((left[~grouped], several))
            ends = np.concatenate((ends[~grouped], whole[several]))
            lag = np.concatenate((lag[~grouped], 0 * several))
            account = np.concatenate((account[~grouped], rank[order[first[several]]]))
        follows = np.zeros(len(first) + 1, dtype=bool)
        follows[1:-1] = np.diff(queue[order[first]]) == 0
        goes = follows[left + 1]
        left, ends, lag, account = left[goes], ends[goes], lag[goes], account[goes]
        run, member = expanded(first[left + 1], size[left + 1])
        outer = _edges(ends[run], node[order[member]], lag[run], account[run], why)
        return Edges(*map(np.concatenate, zip(inner, outer, strict=True))) if len(several) else outer


def local_inputs(program: LoweredProgram) -> tuple[IntArray, IntArray]:
    """Return which operations (counted rank after rank) read which outputs that no message brings."""
    problem, words = program.problem, program.words
    kind, stage, m = kinds(words), op_stages(words), words & MICROBATCH_MASK
    backward = problem.total_stages
    forward, weight = (np.flatnonzero(kind == int(k)) for k in (Kind.F, Kind.W))
    gradient = np.flatnonzero((kind == int(Kind.B)) | (kind == int(Kind.I)))
    pairs = [(gradient, stage[gradient], m[gradient]), (weight, stage[weight] + backward, m[weight])]
    if problem.slices > 1:
        later = forward[m[forward] % problem.slices > 0]
        earlier = gradient[m[gradient] % problem.slices < problem.slices - 1]
        pairs += [(later, stage[later], m[later] - 1), (earlier, stage[earlier] + backward, m[earlier] + 1)]
    offsets, peers = problem.peers_within
    for own, side, base in ((forward, backward, 0), (gradient, 0, backward)):
        key = stage[own] + side
        run, at = expanded(offsets[key], np.diff(offsets)[key])
        pairs.append((own[run], peers[at] + base, m[own[run]]))
    reader = np.concatenate([own for own, _, _ in pairs])
    return reader, np.concatenate([stages * problem.microbatches + parts for _, stages, parts in pairs])


def readers(program: LoweredProgram, transfers: MatchedTransfers) -> IntArray:
    """Return for each transfer the node of the step that reads what its receive takes."""
    count, backward = program.problem.microbatches, program.problem.total_stages
    side = np.where(transfers.read < backward * count, 0, backward)
    return np.asarray(program.makers[0][(transfers.reader + side) * count + transfers.read % count])
