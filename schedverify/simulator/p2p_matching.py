"""Which send of a lowered schedule meets which receive, and what their transfer takes."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedverify.core.discipline import Discipline
from schedverify.core.errors import ScheduleError
from schedverify.core.messages import named, needed_messages
from schedverify.core.op import INDEX_MASK, JOIN_SHIFT, MICROBATCH_MASK, PEER_SHIFT, STAGE_SHIFT, Kind, unpack
from schedverify.core.schedule import Words, kinds
from schedverify.simulator.p2p_program import LoweredProgram

Ints = NDArray[np.int64]
_JOINLESS = (1 << JOIN_SHIFT) - 1


class MatchedTransfers(NamedTuple):
    """The transfers of a lowered schedule; arrays with one entry for each, in the order of the sends.

    Attributes
    ----------
    send, receive
        The operations that meet, counted rank after rank.
    made, read
        Where the output that the send sends, and the one whose tensor the receive takes for it, stand in
        :attr:`Program.makers`. They differ only where the orders of a channel do.
    reader
        The stage that the receive is for.
    occupied, latency
        Ticks in the queue, and ticks of lag beyond it.
    size
        Bytes.
    """

    send: Ints
    receive: Ints
    made: Ints
    read: Ints
    reader: Ints
    occupied: Ints
    latency: Ints
    size: Ints


def match(program: LoweredProgram, discipline: Discipline) -> MatchedTransfers:
    """Let sends and receives meet: by name under ``tagged``, else the n-th with the n-th of a channel.

    Raises
    ------
    ScheduleError
        If a message is missing, stands twice, is none of the schedule's, or stands on another rank than its stage.
    """
    problem = program.problem
    kind = kinds(program.words)
    at = np.flatnonzero((kind > int(Kind.W)) & (kind <= int(Kind.RECV_B)))
    full = named(program.words[at] & _JOINLESS, problem)
    is_send = (kind[at] == int(Kind.SEND_F)) | (kind[at] == int(Kind.SEND_B))
    needed = needed_messages(program.order, problem)
    _check(program, at, full, np.concatenate((needed.sends, needed.receives)))
    owner_rank = np.array(problem.owner_rank, dtype=np.int64)
    source, target = (owner_rank[stage] for stage in _ends(full))
    channel = np.where(is_send, source * problem.ranks + target, target * problem.ranks + source)
    key = [channel] if discipline is not Discipline.TAGGED else [full & MICROBATCH_MASK, *_names(full, is_send)]
    sends, receives = (at[side][np.lexsort((at[side], *(k[side] for k in key)))] for side in (is_send, ~is_send))
    order = np.argsort(sends)
    return _transfers(program, sends[order], receives[order])


def _transfers(program: LoweredProgram, send: Ints, receive: Ints) -> MatchedTransfers:
    problem = program.problem
    owner_rank = np.array(problem.owner_rank, dtype=np.int64)
    sent, received = (named(program.words[ends] & _JOINLESS, problem) for ends in (send, receive))
    source, target = _ends(sent)
    reader, origin = _ends(received)
    onward = kinds(sent) == int(Kind.SEND_F)
    size = np.array(problem.boundary_bytes, dtype=np.int64)[np.where(onward, source, target)]
    here, there = owner_rank[source], owner_rank[target]
    occupied = np.zeros_like(size)
    if problem.bandwidth:
        occupied = -(-size // np.array(problem.bandwidth, dtype=np.int64)[here, there])
    latency = np.array(problem.latency, dtype=np.int64)[here, there]
    made, read = (
        (stage + np.where(forward, 0, problem.total_stages)) * problem.microbatches + (words & MICROBATCH_MASK)
        for stage, forward, words in ((source, onward, sent), (origin, kinds(received) == int(Kind.RECV_F), received))
    )
    return MatchedTransfers(send, receive, made, read, reader, occupied, latency, size)


def _ends(full: Words) -> tuple[Ints, Ints]:
    """Return the stages of fully named transfers: their own, and the one at the other end."""
    return full >> STAGE_SHIFT & INDEX_MASK, (full >> PEER_SHIFT & INDEX_MASK) - 1


def _names(full: Words, is_send: NDArray[np.bool_]) -> tuple[Ints, Ints, NDArray[np.bool_]]:
    """Return what identifies a tensor beside the micro-batch: who sends it, who takes it, whether it is a gradient."""
    own, peer = _ends(full)
    return np.where(is_send, own, peer), np.where(is_send, peer, own), kinds(full) >= int(Kind.SEND_B)


def _check(program: LoweredProgram, at: Ints, full: Words, needed: Words) -> None:
    """Raise a ScheduleError that names the first of the messages that is not as needed."""
    owner_rank = np.array(program.problem.owner_rank, dtype=np.int64)
    if np.array_equal(np.sort(full), np.sort(needed)) and (owner_rank[_ends(full)[0]] == program.rank[at]).all():
        return
    order = np.argsort(full, kind="stable")
    strange = ~np.isin(full, needed)
    strange[order[1:]] |= full[order[1:]] == full[order[:-1]]
    strange[~strange] = owner_rank[full[~strange] >> STAGE_SHIFT & INDEX_MASK] != program.rank[at[~strange]]
    if strange.any():
        index = int(strange.argmax())
        place = program.place(int(program.step[at[index]]))
        raise ScheduleError(f"{place}: {unpack(int(full[index]))} is not needed there; verify says more")
    lacking = needed[~np.isin(needed, full)]
    if len(lacking):
        raise ScheduleError(f"{unpack(int(lacking.min()))} is missing; verify says more")
