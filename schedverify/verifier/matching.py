"""The communication of a lowered schedule as arrays: the tensor of each send and receive, who meets whom, who waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from functools import cached_property

import numpy as np

from schedverify.core.op import INDEX_MASK, MICROBATCH_MASK, PEER_SHIFT, Kind, Op, unpack
from schedverify.core.problem import Problem
from schedverify.core.schedule import (
    Flags,
    IntArray,
    Schedule,
    Words,
    is_communication,
    is_send_wait,
    is_transfer,
    kinds,
    op_stages,
    positions,
    rank_of_each,
)
from schedverify.verifier.occurrences import joined, packed

_SOURCE_SHIFT, _TARGET_SHIFT, _BACKWARD_SHIFT = 40, 24, 56


class Flaw(IntEnum):
    """Why a send or receive moves no tensor of the problem, or that it does."""

    NONE = 0
    NO_STAGE = 1
    """The stage has no neighbour in that direction."""
    ONE_RANK = 2
    """Both stages are on one rank."""
    UNNAMED = 3
    """Several stages may be meant, and none is named."""
    STRANGER = 4
    """The stage that is named is no neighbour."""


class Transfers:
    """Every send and receive that the problem admits, on the first rank of its stage; one entry for each.

    They stand rank by rank, in the order written; what is not admitted, or on another rank, is left to SV101 and SV102.

    Attributes
    ----------
    word, rank, position
        The packed operation and where it stands. Shape (transfers,), like all arrays here.
    backward, is_send
        Whether it moves a gradient, and whether it sends.
    stage, peer, microbatch
        Its own stage, the one at the other end (-1 where that is unknown), the micro-batch.
    partner
        The rank at the other end, or -1 where there is no channel: the peer is unknown, absent or on the same rank.
    flaw
        See :class:`Flaw`.
    waits
        Every wait for a send.
    """

    def __init__(self, schedule: Schedule, problem: Problem) -> None:
        self.problem = problem
        communication = _placed(schedule, problem)
        self.word, self.rank, self.position = _where(communication, is_transfer)
        self.backward = kinds(self.word) >= int(Kind.SEND_B)
        self.is_send = kinds(self.word) % 2 == int(Kind.SEND_F) % 2
        self.stage, self.microbatch = op_stages(self.word), self.word & MICROBATCH_MASK
        self._resolve()
        self.waits = SendWaits(communication, self)

    @cached_property
    def name(self) -> IntArray:
        """The tensor that each moves, packed: direction, stage that makes it, stage that reads it, micro-batch."""
        source = np.where(self.is_send, self.stage, self.peer)
        target = np.where(self.is_send, self.peer, self.stage)
        return packed_name(self.backward, source, target, self.microbatch)

    @cached_property
    def channel(self) -> IntArray:
        """The directed pair of ranks that each goes through, as one number; meaningless without a partner."""
        first, second = np.where(self.is_send, (self.rank, self.partner), (self.partner, self.rank))
        return np.asarray(first * self.problem.ranks + second)

    @cached_property
    def size(self) -> IntArray:
        """The bytes of each message; those of a gradient are the bytes of what it is the gradient of."""
        maker = np.where(self.is_send ^ self.backward, self.stage, self.peer)
        sizes = self.problem.boundary_bytes_array
        return np.asarray(sizes[np.clip(maker, 0, self.problem.total_stages - 1)])

    @cached_property
    def sound(self) -> Flags:
        """By entry, whether it moves a tensor of the problem."""
        return np.asarray(self.flaw == Flaw.NONE)

    def op(self, index: int) -> Op:
        """Return the operation of an entry."""
        return unpack(int(self.word[index]))

    def place(self, entry: int) -> tuple[int, int, str]:
        """Return the rank, the position and the text of an entry."""
        return int(self.rank[entry]), int(self.position[entry]), str(self.op(entry))

    @staticmethod
    def tensor(name: int) -> tuple[bool, int, int, int]:
        """Return of a packed name whether it is a gradient, the stages that make and read it, and the micro-batch."""
        source, target = name >> _SOURCE_SHIFT & INDEX_MASK, name >> _TARGET_SHIFT & INDEX_MASK
        return bool(name >> _BACKWARD_SHIFT), source, target, name & MICROBATCH_MASK

    def makers(self, entries: IntArray) -> tuple[IntArray, IntArray]:
        """Return the entries that send, with the packed operation that makes the tensor: F, or each of B and I."""
        return joined(self._partners(entries[self.is_send[entries]]))

    def readers(self, entries: IntArray) -> tuple[IntArray, IntArray]:
        """Return the entries that receive, with the packed operation that reads the tensor: F, or each of B and I."""
        return joined(self._partners(entries[~self.is_send[entries]]))

    def _partners(self, entries: IntArray) -> Iterator[tuple[IntArray, IntArray]]:
        """Yield entries with the operations of their own stages and micro-batches that make or read their tensors."""
        for kind, backward in ((Kind.F, False), (Kind.B, True), (Kind.I, True)):
            some = entries[self.backward[entries] == backward]
            yield some, packed(kind, self.stage[some], self.microbatch[some])

    def _resolve(self) -> None:
        """Find the peer of each entry, the rank at the other end, and what is wrong with it."""
        named, onward = _named_peer(self.word), self.is_send ^ self.backward
        sole, flaw = _sole_peer(self.problem, self.stage, onward)
        neighbours = self._neighbours(onward, named)
        known = (named >= 0) & (named < self.problem.total_stages)
        other = self.problem.owner_rank_array[np.where(known, named, 0)]
        own = np.select([~neighbours, other == self.rank], [int(Flaw.STRANGER), int(Flaw.ONE_RANK)], int(Flaw.NONE))
        self.flaw = np.where(named >= 0, own, flaw)
        self.peer = np.where(named >= 0, named, sole)
        other = np.where(named >= 0, np.where(known, other, -1), self.problem.owner_rank_array[np.maximum(sole, 0)])
        self.partner = np.where((self.peer < 0) | (other == self.rank), -1, other)

    def _neighbours(self, onward: Flags, named: IntArray) -> Flags:
        """Mark the entries whose named peer is a neighbour of their stage in the direction of the tensor."""
        first, second = np.where(onward, (self.stage, named), (named, self.stage))
        edges = np.array([s << 16 | t for s, ts in enumerate(self.problem.successors) for t in ts], dtype=np.int64)
        return np.asarray(np.isin(first << 16 | second, edges) & (named >= 0))


class SendWaits:
    """Every wait for a send that the problem admits, on the first rank of its stage; one entry for each.

    They stand rank by rank, in the order written. The send of a wait is the first of its tensor on its rank; the wait
    of a send is the first that stands behind it. A wait whose send is missing or behind it holds nothing.

    Attributes
    ----------
    word, rank, position
        The packed operation and where it stands. Shape (waits,), like all arrays here but the last.
    send
        The entry of its send among the transfers, or -1 where no send of its tensor stands.
    behind
        Whether it stands behind its send.
    first
        The first wait for its tensor, as an entry.
    until
        By transfer, the entry of the wait for it, or -1 where none stands behind it; shape (transfers,).
    """

    def __init__(self, communication: _Placed, transfers: Transfers) -> None:
        problem = transfers.problem
        self.word, self.rank, self.position = _where(communication, is_send_wait)
        self.until = np.full(len(transfers.word), -1, dtype=np.int64)
        if not len(self.word):  # then the sends, which can be many, need no order
            self.send = self.first = self.position
            self.behind = self.position < 0
            return
        stage, named, backward = op_stages(self.word), _named_peer(self.word), _waits_for_b(self.word)
        peer = np.where(named >= 0, named, _sole_peer(problem, stage, ~backward)[0])
        wanted = packed_name(backward, stage, peer + 1, self.word & MICROBATCH_MASK)
        sends = np.flatnonzero(transfers.is_send)
        sent = packed_name(transfers.backward, transfers.stage, transfers.peer + 1, transfers.microbatch)[sends]
        tensors, first = np.unique(sent, return_index=True)
        at = np.minimum(np.searchsorted(tensors, wanted), max(len(tensors) - 1, 0))
        found = tensors[at] == wanted if len(tensors) else np.zeros(len(wanted), dtype=bool)
        self.send = np.full(len(wanted), -1, dtype=np.int64)
        self.send[found] = sends[first[at[found]]]
        self.behind = found.copy()
        self.behind[found] = transfers.position[self.send[found]] < self.position[found]
        _, firsts, inverse = np.unique(wanted, return_index=True, return_inverse=True)
        self.first = firsts[inverse]
        lets_go = np.flatnonzero(self.behind)[::-1]  # of several the first is written last, and stays
        self.until[self.send[lets_go]] = lets_go

    def place(self, entry: int) -> tuple[int, int, str]:
        """Return the rank, the position and the text of an entry."""
        return int(self.rank[entry]), int(self.position[entry]), str(unpack(int(self.word[entry])))


_Placed = tuple[Words, IntArray, IntArray]
"""Packed operations, and the rank and position of each."""


def _placed(schedule: Schedule, problem: Problem) -> _Placed:
    """Return the communication that the problem admits, on the first rank of its stage, and where it stands."""
    words = np.concatenate(schedule.rows)
    rank = rank_of_each(schedule)
    position = np.concatenate([positions(row) for row in schedule.rows])
    chosen = is_communication(words) & problem.has_operations(words)
    chosen[chosen] = problem.owner_rank_array[op_stages(words[chosen])] == rank[chosen]
    return words[chosen], rank[chosen], position[chosen]


def _where(placed: _Placed, chosen_by: Callable[[Words], Flags]) -> _Placed:
    """Return those of some operations that are chosen."""
    words, rank, position = placed
    chosen = chosen_by(words)
    return words[chosen], rank[chosen], position[chosen]


def _named_peer(word: Words) -> IntArray:
    """Return the peer stage that each operation names, or -1."""
    return (word >> PEER_SHIFT & INDEX_MASK) - 1


def _waits_for_b(word: Words) -> Flags:
    """Return whether each wait is for a gradient."""
    return np.asarray(kinds(word) == int(Kind.WAIT_SEND_B))


def _sole_peer(problem: Problem, stage: IntArray, onward: Flags) -> tuple[IntArray, IntArray]:
    """Return the peer that each stage means where it names none (or -1), on the side it feeds or not, and the flaw."""
    sole, flaw = _table(problem)
    side = onward.astype(np.int64)
    return sole[side, stage], flaw[side, stage]


def matched(transfers: Transfers, present: IntArray, *, by_name: bool) -> tuple[IntArray, IntArray]:
    """Return the sends and receives that match: the n-th on each channel, or the n-th of each tensor.

    Parameters
    ----------
    present
        The numbers of the transfers that have a channel.
    """
    channel = transfers.name[present] if by_name else transfers.channel[present]
    _, channel = np.unique(channel, return_inverse=True)
    is_send = transfers.is_send[present]
    keys = [_numbered(channel[side], len(present)) for side in (is_send, ~is_send)]
    _, sends, receives = np.intersect1d(keys[0], keys[1], assume_unique=True, return_indices=True)
    return present[is_send][sends], present[~is_send][receives]


def _numbered(channel: IntArray, most: int) -> IntArray:
    """Return for each entry its channel and its number in that channel, as one number.

    .. code-block:: text

        channel            1  0  1  1  0
        number             0  0  1  2  1        how many of its channel stand before it
        with most = 5      6  0  7  8  1        channel * (most + 1) + number
    """
    order = np.argsort(channel, kind="stable")
    first = np.searchsorted(channel[order], channel[order])
    number = np.empty(len(channel), dtype=np.int64)
    number[order] = np.arange(len(channel)) - first
    return channel * (most + 1) + number


def packed_name(backward: Flags | bool, source: IntArray, target: IntArray, microbatch: IntArray) -> IntArray:
    """Pack what identifies a tensor that crosses between stages.

    .. code-block:: text

        bit     56         40       24       0
                backward | source | target | microbatch
    """
    direction = np.asarray(backward, dtype=np.int64) << _BACKWARD_SHIFT
    return np.asarray(direction | source << _SOURCE_SHIFT | target << _TARGET_SHIFT | microbatch)


def packed_edge(backward: bool, source: int, target: int) -> int:
    """Return what the packed names of the tensors from one stage to another have above the micro-batch."""
    return (backward << _BACKWARD_SHIFT | source << _SOURCE_SHIFT | target << _TARGET_SHIFT) >> _TARGET_SHIFT


def _table(problem: Problem) -> tuple[IntArray, IntArray]:
    """Return the peer that each stage means where it names none (or -1), and why it means none.

    By side: 0 the stages that feed it, 1 those that it feeds; then by stage.
    """
    sole = np.full((2, problem.total_stages), -1, dtype=np.int64)
    flaw = np.full((2, problem.total_stages), int(Flaw.NONE), dtype=np.int64)
    for side, neighbours in enumerate((problem.predecessors, problem.successors)):
        for stage, peers in enumerate(neighbours):
            away = [peer for peer in peers if problem.owner_rank[peer] != problem.owner_rank[stage]]
            if len(away) == 1:
                sole[side, stage] = away[0]
            else:
                flaw[side, stage] = Flaw.UNNAMED if away else Flaw.ONE_RANK if peers else Flaw.NO_STAGE
    return sole, flaw
