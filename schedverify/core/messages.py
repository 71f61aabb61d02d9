"""Which tensors a compute order sends between ranks: one message for each edge of the stage graph between two ranks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from schedverify.core.op import INDEX_MASK, KIND_SHIFT, MICROBATCH_MASK, PEER_SHIFT, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import IntArray, Schedule, Words, kinds, op_stages, rank_of_each

_PEER = INDEX_MASK << PEER_SHIFT


class Messages(NamedTuple):
    """Messages in the order of the operations that make them, rank after rank; each array has shape ``(messages,)``."""

    maker: IntArray
    """The operation that makes the tensor, counted over the whole schedule, rank after rank, from 0."""
    sends: Words
    """The packed sends, all with the peer stage named; see :func:`short`."""
    receives: Words
    """The packed receives, all with the peer stage named."""


def needed_messages(schedule: Schedule, problem: Problem) -> Messages:
    """Return the messages of a compute order: none between stages whose first ranks are equal.

    Only the first rank of a stage sends. An F sends to each stage that its stage feeds, a B or I to each that feeds it,
    a W to none.
    """
    # offsets, peers   the lists of all sides of all stages, one behind the other (see Problem.peers_across)
    # key              by operation the list that it sends to, count how many are in it
    # maker, peer      the lists of all operations in a row: whose list it is, and where in peers the entry stands
    words = np.concatenate(schedule.rows)
    kind, stage = kinds(words), op_stages(words)
    offsets, peers = problem.peers_across
    backward = (kind != int(Kind.F)).astype(np.int64)
    key = stage + backward * problem.total_stages
    sends = (kind != int(Kind.W)) & (rank_of_each(schedule) == problem.owner_rank_array[stage])
    count = np.where(sends, np.diff(offsets)[key], 0)
    maker, peer = expanded(offsets[key], count)
    source, microbatch, target = stage[maker], words[maker] & MICROBATCH_MASK, peers[peer]
    send = np.where(backward[maker] == 1, int(Kind.SEND_B), int(Kind.SEND_F))
    return Messages(maker, _packed(send, source, microbatch, target), _packed(send + 1, target, microbatch, source))


def expanded(first: IntArray, count: IntArray) -> tuple[IntArray, IntArray]:
    """Return all members of some runs of consecutive numbers, each with the position of its run.

    Parameters
    ----------
    first, count
        Shape ``(runs,)``: the number that each run begins with, and how many it has.

    Returns
    -------
    run, member
        Shape ``(count.sum(),)``: ``first = [5, 2]``, ``count = [2, 3]`` give the runs ``[0, 0, 1, 1, 1]`` and the
        members ``[5, 6, 2, 3, 4]``.
    """
    run = np.repeat(np.arange(len(count)), count)
    return run, np.arange(len(run)) - np.repeat(np.cumsum(count) - count, count) + first[run]


def short(transfers: Words, problem: Problem) -> Words:
    """Take the peer stage off communication where the stage feeds, or is fed by, no other."""
    several = [len(peers) > 1 for side in (problem.successors, problem.predecessors) for peers in side]
    return np.where(np.array(several)[_side(transfers, problem)], transfers, transfers & ~_PEER)


def named(transfers: Words, problem: Problem) -> Words:
    """Name the peer stage of communication that names none, where it is the only one on another rank."""
    offsets, peers = problem.peers_across
    side = _side(transfers, problem)
    lone = (transfers & _PEER == 0) & (np.diff(offsets)[side] == 1)
    peer = np.append(peers, 0)[np.minimum(offsets[side], len(peers))]
    return np.where(lone, transfers | (peer + 1) << PEER_SHIFT, transfers)


def _side(transfers: Words, problem: Problem) -> IntArray:
    """Return where in the lists of ``Problem.peers_across`` the peers of communication stand."""
    kind, stage = kinds(transfers), np.minimum(op_stages(transfers), problem.total_stages - 1)
    onward = (kind == int(Kind.SEND_F)) | (kind == int(Kind.WAIT_SEND_F)) | (kind == int(Kind.RECV_B))
    return np.asarray(stage + np.where(onward, 0, problem.total_stages))


def _packed(kind: IntArray, stage: IntArray, microbatch: IntArray, peer: IntArray) -> Words:
    return microbatch | stage << STAGE_SHIFT | kind << KIND_SHIFT | (peer + 1) << PEER_SHIFT
