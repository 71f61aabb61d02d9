"""Which tensors a compute order sends between ranks: one message for each edge of the stage graph between two ranks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedverify.op import INDEX_MASK, KIND_SHIFT, MICROBATCH_MASK, PEER_SHIFT, STAGE_SHIFT, Kind
from schedverify.problem import Problem
from schedverify.schedule import Schedule, kinds

Ints = NDArray[np.int64]


class Messages(NamedTuple):
    """Messages in the order of the operations that make them, rank after rank; arrays with one entry for each.

    ``maker`` counts the operations of the schedule, rank after rank, from 0.
    """

    maker: Ints
    sender: Ints
    receiver: Ints
    sends: Ints
    """The packed sends; the peer stage is named where the stage feeds (or is fed by) several."""
    receives: Ints
    """The packed receives."""


def messages_of(schedule: Schedule, problem: Problem) -> Messages:
    """Return the messages of a compute order: none between stages whose first ranks are equal."""
    words = np.concatenate(schedule.rows)
    rank = np.repeat(np.arange(schedule.ranks), [len(row) for row in schedule.rows])
    kind, stage = kinds(words), words >> STAGE_SHIFT & INDEX_MASK
    homes = np.array(problem.homes, dtype=np.int64)
    offsets, peers = _peers(problem)
    backward = (kind != int(Kind.F)).astype(np.int64)
    key = stage + backward * problem.total_stages
    count = np.where((kind != int(Kind.W)) & (rank == homes[stage]), np.diff(offsets)[key], 0)
    maker = np.repeat(np.arange(len(words)), count)
    nth = np.arange(len(maker)) - np.repeat(np.cumsum(count) - count, count)
    source, backward, microbatch = stage[maker], backward[maker], words[maker] & MICROBATCH_MASK
    target = peers[offsets[key[maker]] + nth]
    send_kind = np.where(backward == 1, int(Kind.SEND_B), int(Kind.SEND_F))
    several = np.array([[len(row) > 1 for row in rows] for rows in (problem.successors, problem.predecessors)])
    sends = _packed(send_kind, source, microbatch, np.where(several[backward, source], target + 1, 0))
    receives = _packed(send_kind + 1, target, microbatch, np.where(several[1 - backward, target], source + 1, 0))
    return Messages(maker, homes[source], homes[target], sends, receives)


def _peers(problem: Problem) -> tuple[Ints, Ints]:
    """Return by direction and stage where its peers on other ranks begin in a list, and that list."""
    homes = problem.homes
    rows = [
        [peer for peer in peers if homes[peer] != homes[stage]]
        for neighbours in (problem.successors, problem.predecessors)
        for stage, peers in enumerate(neighbours)
    ]
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows], dtype=np.int64)))
    return offsets, np.array([peer for row in rows for peer in row], dtype=np.int64)


def _packed(kind: Ints, stage: Ints, microbatch: Ints, named: Ints) -> Ints:
    """Return packed operations; ``named`` is the peer stage + 1, or 0."""
    return microbatch | stage << STAGE_SHIFT | kind << KIND_SHIFT | named << PEER_SHIFT
