"""The event graph of a lowered schedule under a discipline: what must happen before what (semantics, section 4).

Nodes are the compute steps (those that run as one are one node) and the transfers. A send and the receive that it
meets are one node, a *fused* event, because a transfer needs both ends; under ``tagged`` and ``buffered``, and where
the message is eager, the send is a node of its own with an edge to its receive. Each edge is on account of a rank: the
one that waits. A cycle is a deadlock; a topological order is a run, and the certificate that there is none.

Who meets whom. On each channel (directed pair of ranks) the n-th send meets the n-th receive, within a group in the
order written; under ``tagged`` the n-th send of a tensor meets the n-th receive of that tensor. What finds no partner
this way counts as matched: SV301 reports it, as SV103 reports an operation that SV201 counts as done.

What waits for what.

- A compute step waits for the compute step before it on its rank, for the outputs on its own rank that it reads, and
  for the first receive of each tensor that it reads from another. What is absent there counts as done: ranks act on
  each other by transfers, and by the steps of stages that stand on several ranks, and in no other way.
- A send or receive is posted where it stands: it waits for the last compute step before it. A send waits for the step
  that makes its tensor as well.
- A ``WAIT_SEND`` holds the program: it waits for the compute step and for the wait before it and for its send, and what
  comes behind it, compute or posted, waits for it. One whose send is missing or behind it waits for no send.
- A send or receive also waits for its rank's own queue: for all that stands before it in the same queue, the members
  of its own group left out. ``buffered`` and ``edge`` have a queue for each channel, ``pair`` one for each other rank,
  ``rank`` one for all, ``tagged`` none.
- Under ``block`` the queue is the program: each step, compute or not, waits for all of the step before it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np

from schedverify.core.discipline import Discipline
from schedverify.core.schedule import IntArray
from schedverify.simulator.csr_graph import Precedence
from schedverify.verifier.graph import beside, forwards_and_gradients, kind_stage_microbatch, reads
from schedverify.verifier.matching import Transfers, matched, packed_name
from schedverify.verifier.occurrences import Occurrences, joined

Edges = tuple[IntArray, IntArray, IntArray]
"""Three arrays of shape (edges,): what must happen, what waits for it, and the rank that waits.

The rank is -1 where a receive waits for its send.
"""


class Placed(NamedTuple):
    """Events of some kind: on which rank and at which position each stands, and its node. Arrays of one shape."""

    rank: IntArray
    position: IntArray
    node: IntArray


class EventGraph(Precedence):
    """The events of a lowered schedule and what each waits for, under one discipline.

    Attributes
    ----------
    present
        The entries of ``transfers`` that have a channel, as numbers; shape (present,).
    send, receive
        The entries that match, one pair after another; shape (pairs,).
    apart
        By pair, whether its send waits for no receive, so that the two are nodes of their own.
    wait_node
        By wait for a send, its node; those of one position are one.
    alone
        By entry, whether it would wait for no receive if it is a send; shape (transfers,).
    node
        By entry, its node; shape (transfers,). Compute steps have the numbers that ``occurrences`` gives them:

        .. code-block:: text

            0 ... steps - 1          compute steps
            steps ...                transfers, by entry; a receive that is no node of its own has that of its send
            steps + transfers ...    waits, by place, and then groups: one for each entry of several in a queue
    waiting_rank
        By edge, the rank that waits, or -1 where a receive waits for its send. Shape (edges,).
    count
        How many nodes there are. Those beyond the transfers stand for whole groups in a queue.
    """

    def __init__(
        self, occurrences: Occurrences, transfers: Transfers, discipline: Discipline, eager_bytes: int
    ) -> None:
        self.occurrences, self.transfers, self.discipline = occurrences, transfers, discipline
        self.present = np.flatnonzero(transfers.partner >= 0)
        self.send, self.receive = matched(transfers, self.present, by_name=discipline is Discipline.TAGGED)
        self.node = len(occurrences.step_rank) + np.arange(len(transfers.rank))
        self.alone = (transfers.size <= (eager_bytes or -1)) | (discipline in (Discipline.TAGGED, Discipline.BUFFERED))
        self.apart = self.alone[self.send]
        self.node[self.receive[~self.apart]] = self.node[self.send[~self.apart]]
        self.count = len(occurrences.step_rank) + len(transfers.rank)
        self.wait_node = self._placed_waits()
        before, after, self.waiting_rank = self._edges()
        super().__init__(self.count, before, after)

    def among(self, ranks: tuple[int, ...]) -> EventGraph:
        """Return the graph in which only these ranks wait; whatever they need of other ranks is there at once."""
        chosen = np.isin(self.waiting_rank, (*ranks, -1)) & self.blocked[self.before] & self.blocked[self.after]
        part = self.restricted(chosen)
        part.waiting_rank = self.waiting_rank[chosen]
        return part

    def _edges(self) -> Edges:
        occurrences, transfers, present, waits = self.occurrences, self.transfers, self.present, self.transfers.waits
        edges = [
            self._step_inputs(),
            self._received_inputs(),
            self._sent_outputs(),
            self._awaited_sends(),
            (self.node[self.send[self.apart]], self.node[self.receive[self.apart]], np.full(self.apart.sum(), -1)),
        ]
        steps = Placed(occurrences.step_rank, occurrences.step_position, occurrences.node)
        events = Placed(transfers.rank[present], transfers.position[present], self.node[present])
        holds = Placed(waits.rank, waits.position, self.wait_node)
        if self.discipline is Discipline.BLOCK:
            members = Placed(*map(np.concatenate, zip(steps, events, holds, strict=True)))
            edges.append(self._queued(members.rank, members))
        else:
            edges += [self._queued(steps.rank, steps), _behind(steps, events)]
            edges += [_behind(steps, holds)] + [_behind(holds, later) for later in (steps, holds, events)]
        queue = self._queue()
        if queue is not None:
            edges.append(self._queued(queue, events))
        before, after, waiting_rank = (np.concatenate(arrays) for arrays in zip(*edges, strict=True))
        return before, after, waiting_rank

    def _step_inputs(self) -> Edges:
        """Let steps wait for those of the same rank whose outputs they read."""
        occurrences = self.occurrences
        reader, ops = reads(occurrences, across=False)
        maker = occurrences.first_on(ops, occurrences.rank[reader])
        reader, maker = reader[maker >= 0], maker[maker >= 0]
        return occurrences.node[maker], occurrences.node[occurrences.step[reader]], occurrences.rank[reader]

    def _received_inputs(self) -> Edges:
        """Let steps wait for the first receive, on their rank, of each tensor that they read."""
        occurrences, transfers = self.occurrences, self.transfers
        receives = self.present[~transfers.is_send[self.present]]
        names, first = np.unique(transfers.name[receives], return_index=True)
        reader, wanted = joined(_remote_reads(occurrences))
        at = np.minimum(np.searchsorted(names, wanted), max(len(names) - 1, 0))
        found = names[at] == wanted if len(names) else np.zeros(len(wanted), dtype=bool)
        reader, receive = reader[found], receives[first[at[found]]]
        same_rank = occurrences.rank[reader] == transfers.rank[receive]
        reader, receive = reader[same_rank], receive[same_rank]
        return self.node[receive], occurrences.node[occurrences.step[reader]], occurrences.rank[reader]

    def _sent_outputs(self) -> Edges:
        """Let sends wait for the first step, on their rank, that makes their tensor."""
        occurrences, transfers = self.occurrences, self.transfers
        send, ops = transfers.makers(self.present[transfers.sound[self.present]])
        maker = occurrences.first_on(ops, transfers.rank[send])
        send, maker = send[maker >= 0], maker[maker >= 0]
        return occurrences.node[maker], self.node[send], transfers.rank[send]

    def _awaited_sends(self) -> Edges:
        """Let waits wait until their sends are complete."""
        waits = self.transfers.waits
        entries = np.flatnonzero(waits.behind)
        return self.node[waits.send[entries]], self.wait_node[entries], waits.rank[entries]

    def _placed_waits(self) -> IntArray:
        """Number the places at which waits stand, behind all other nodes."""
        waits = self.transfers.waits
        places, index = np.unique(waits.rank << 32 | waits.position, return_inverse=True)
        first, self.count = self.count, self.count + len(places)
        return np.asarray(first + index)

    def _queue(self) -> IntArray | None:
        """Return the queue of each present transfer on its own rank, or None where the program alone orders them."""
        rank, partner = self.transfers.rank[self.present], self.transfers.partner[self.present]
        if self.discipline in (Discipline.TAGGED, Discipline.BLOCK):
            return None
        if self.discipline is Discipline.RANK:
            return rank
        pair = rank << 16 | partner
        return pair if self.discipline is Discipline.PAIR else pair << 1 | self.transfers.is_send[self.present]

    def _queued(self, queue: IntArray, members: Placed) -> Edges:
        """Let each member wait for the whole entry before it in its queue; members of one position there are one entry.

        An entry of several is stood for by a node of its own, so that no more edges arise than there are members. Of
        one queue with the members a; b and c at one position; d:

        .. code-block:: text

            node       a       b       c       d
            position   3       5       5       8
            begins     1       1       0       1         where an entry begins
            entry      0       1       1       2
            whole      a       x               d         by entry: its node, x being the one that is added

            edges      a -> b, a -> c        from the whole of an entry to the members of the next
                       b -> x, c -> x        from the members of several to their whole
                       x -> d
        """
        order = np.lexsort((members.position, queue))
        queue, (rank, position, node) = queue[order], (column[order] for column in members)
        begins = np.ones(len(node), dtype=bool)
        begins[1:] = (np.diff(queue) != 0) | (np.diff(position) != 0)
        entry = np.cumsum(begins) - 1
        first = np.flatnonzero(begins)
        several = np.bincount(entry, minlength=len(first)) > 1
        whole = node[first].copy()
        whole[several] = self.count + np.arange(several.sum())
        self.count += int(several.sum())
        member = several[entry]
        follows = np.zeros(len(first), dtype=bool)
        follows[1:] = np.diff(queue[first]) == 0
        waits = follows[entry]
        before = np.concatenate((node[member], whole[entry[waits] - 1]))
        after = np.concatenate((whole[entry[member]], node[waits]))
        return before, after, np.concatenate((rank[member], rank[waits]))


def _behind(program: Placed, later: Placed) -> Edges:
    """Let later events wait for the last of a program, sorted by rank and position, that stands before each."""
    keys = program.rank << 32 | program.position
    last = np.searchsorted(keys, later.rank << 32 | later.position) - 1
    behind = last >= 0
    behind[behind] = program.rank[last[behind]] == later.rank[behind]
    return program.node[last[behind]], later.node[behind], later.rank[behind]


def _remote_reads(occurrences: Occurrences) -> Iterator[tuple[IntArray, IntArray]]:
    """Yield entries with the tensors, packed, that they read from other ranks."""
    problem = occurrences.problem
    kind, stage, m = kind_stage_microbatch(occurrences.op)
    forward, gradient = forwards_and_gradients(kind)
    fed, peer = beside(problem, stage, forward, onward=False, across=True)
    yield fed, packed_name(False, peer, stage[fed], m[fed])
    feeding, after = beside(problem, stage, gradient, onward=True, across=True)
    yield feeding, packed_name(True, after, stage[feeding], m[feeding])
