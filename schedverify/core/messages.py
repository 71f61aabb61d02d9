"""Which tensors a compute order sends between ranks: one message for each edge of the stage graph between two ranks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedverify.core.op import INDEX_MASK, KIND_SHIFT, MICROBATCH_MASK, PEER_SHIFT, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words, kinds

Ints = NDArray[np.int64]

_PEER = INDEX_MASK << PEER_SHIFT


class Messages(NamedTuple):
    """Messages in the order of the operations that make them, rank after rank; arrays with one entry for each.

    ``maker`` counts the operations of the schedule, rank after rank, from 0.
    """

    maker: Ints
    sends: Words
    """The packed sends, all with the peer stage named; see :func:`short`."""
    receives: Words
    """The packed receives, likewise."""


def needed_messages(schedule: Schedule, problem: Problem) -> Messages:
    """Return the messages of a compute order: none between stages whose first ranks are equal."""
    words = np.concatenate(schedule.rows)
    rank = np.repeat(np.arange(schedule.ranks), [len(row) for row in schedule.rows])
    kind, stage = kinds(words), words >> STAGE_SHIFT & INDEX_MASK
    offsets, peers = neighbours(problem, across=True)
    backward = (kind != int(Kind.F)).astype(np.int64)
    key = stage + backward * problem.total_stages
    sends_here = (kind != int(Kind.W)) & (rank == np.array(problem.owner_rank, dtype=np.int64)[stage])
    count = np.where(sends_here, np.diff(offsets)[key], 0)
    maker, peer = expanded(offsets[key], count)
    source, microbatch, target = stage[maker], words[maker] & MICROBATCH_MASK, peers[peer]
    send = np.where(backward[maker] == 1, int(Kind.SEND_B), int(Kind.SEND_F))
    return Messages(maker, _packed(send, source, microbatch, target), _packed(send + 1, target, microbatch, source))


def neighbours(problem: Problem, *, across: bool) -> tuple[Ints, Ints]:
    """Return where the neighbours of each stage begin in a list, and that list: those on other ranks, or on its own.

    First come by stage those that it feeds, then by stage those that feed it; a stage's rank is its first.
    """
    owner_rank = problem.owner_rank
    rows = [
        [peer for peer in peers if (owner_rank[peer] != owner_rank[stage]) == across]
        for direction in (problem.successors, problem.predecessors)
        for stage, peers in enumerate(direction)
    ]
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows], dtype=np.int64)))
    return offsets, np.array([peer for row in rows for peer in row], dtype=np.int64)


def expanded(first: Ints, count: Ints) -> tuple[Ints, Ints]:
    """Return for each member of runs (where each begins, how long it is) the number of its run, and the member."""
    run = np.repeat(np.arange(len(count)), count)
    return run, np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count) + first[run]


def short(transfers: Words, problem: Problem) -> Words:
    """Take the peer stage off sends and receives where the stage feeds, or is fed by, no other."""
    several = [len(peers) > 1 for side in (problem.successors, problem.predecessors) for peers in side]
    return np.where(np.array(several)[_side(transfers, problem)], transfers, transfers & ~_PEER)


def named(transfers: Words, problem: Problem) -> Words:
    """Name the peer stage of sends and receives that name none, where it is the only one on another rank."""
    offsets, peers = neighbours(problem, across=True)
    side = _side(transfers, problem)
    lone = (transfers & _PEER == 0) & (np.diff(offsets)[side] == 1)
    peer = np.append(peers, 0)[np.minimum(offsets[side], len(peers))]
    return np.where(lone, transfers | (peer + 1) << PEER_SHIFT, transfers)


def _side(transfers: Words, problem: Problem) -> Ints:
    """Return where in the lists of :func:`neighbours` the peers of sends and receives stand."""
    kind, stage = kinds(transfers), np.minimum(transfers >> STAGE_SHIFT & INDEX_MASK, problem.total_stages - 1)
    onward = (kind == int(Kind.SEND_F)) | (kind == int(Kind.RECV_B))
    return np.asarray(stage + np.where(onward, 0, problem.total_stages))


def _packed(kind: Ints, stage: Ints, microbatch: Ints, peer: Ints) -> Words:
    return microbatch | stage << STAGE_SHIFT | kind << KIND_SHIFT | (peer + 1) << PEER_SHIFT
