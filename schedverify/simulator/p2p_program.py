"""The steps of a lowered schedule as arrays: what computes and what it costs, and which send meets which receive."""

from __future__ import annotations

from functools import cached_property
from typing import NamedTuple

import numpy as np

from schedverify.core.discipline import Discipline
from schedverify.core.errors import ScheduleError
from schedverify.core.messages import named, needed_messages
from schedverify.core.op import (
    INDEX_MASK,
    JOIN_SHIFT,
    KIND_MASK,
    KIND_SHIFT,
    MICROBATCH_MASK,
    PEER_SHIFT,
    Join,
    Kind,
    unpack,
)
from schedverify.core.problem import Problem
from schedverify.core.problem.stage_graph import Matrix
from schedverify.core.schedule import (
    OPERATION_MASK,
    Flags,
    IntArray,
    Schedule,
    Words,
    is_send,
    is_send_wait,
    is_transfer,
    kinds,
    op_stages,
    rank_of_each,
)
from schedverify.simulator.joint_steps import joint_steps_of
from schedverify.simulator.op_classes import check_runnable

_W = int(Kind.W)


class LoweredProgram:
    """All operations of a lowered schedule, rank after rank, and all its steps.

    Attributes
    ----------
    words, rank, step
        By operation, shape (operations,): packed, the rank, and the number of its step.
    step_rank
        By step, shape (steps,), its rank.
    computes, waits
        By step, whether it computes, and whether it waits for a send; the two hold their rank's program.
    duration
        By step, its ticks; 0 where it does not compute.
    node
        By step that computes, the number of the first of those that start as one with it; of others, their own number.
    order
        The compute steps alone, as a schedule.
    """

    def __init__(self, schedule: Schedule, problem: Problem) -> None:
        self.problem = problem
        self.words = np.concatenate(schedule.rows)
        self.rank = rank_of_each(schedule)
        kind, begins = kinds(self.words), self.words >> JOIN_SHIFT == 0
        self.step = np.cumsum(begins) - 1
        self.step_rank = self.rank[begins]
        self.computes, self.waits = kind[begins] <= _W, is_send_wait(self.words[begins])
        self._check_joins(kind)
        self.order = schedule.compute_only()
        check_runnable(self.order, problem, excerpt=False)
        self.duration = self._durations(kind)
        self.node = self._merged()

    @cached_property
    def makers(self) -> tuple[IntArray, IntArray]:
        """By output, the node that makes it, and after how many ticks: when the longest of the node's steps ends.

        Both of shape (2·S·M,): F of stage s and micro-batch m stands at ``s·M+m``, its B or I at ``(S+s)·M+m``. The
        node is -1 where nothing makes the output.
        """
        kind, count = kinds(self.words), self.problem.microbatches
        node = np.full(2 * self.problem.total_stages * count, -1, dtype=np.int64)
        ticks = np.zeros(len(node), dtype=np.int64)
        makes = np.flatnonzero(kind < _W)
        slot = self.slot(self.words[makes])
        node[slot] = self.node[self.step[makes]]
        np.maximum.at(ticks, slot, self.duration[self.step[makes]])
        return node, ticks

    def slot(self, words: Words) -> IntArray:
        """Return where the outputs of F, B and I stand among all outputs."""
        stage = op_stages(words)
        side = np.where(kinds(words) == int(Kind.F), 0, self.problem.total_stages)
        return np.asarray((stage + side) * self.problem.microbatches + (words & MICROBATCH_MASK))

    def place(self, step: int) -> str:
        """Say where a step stands."""
        rank = int(self.step_rank[step])
        return f"rank {rank}, position {step - int(np.searchsorted(self.step_rank, rank))}"

    def text(self, step: int) -> str:
        """Return a step's first operation."""
        return str(unpack(int(self.words[np.searchsorted(self.step, step)])))

    def _check_joins(self, kind: IntArray) -> None:
        """Refuse groups of anything but transfers, and overlapped steps of anything but compute."""
        join, transfers = self.words >> JOIN_SHIFT, is_transfer(self.words)
        group, overlap = join == int(Join.GROUP), join == int(Join.OVERLAP)
        first = np.searchsorted(self.step, self.step)
        bad = group & ~(transfers & transfers[first]) | overlap & ((kind > _W) | (kind[first] > _W))
        if bad.any():
            step = int(self.step[int(bad.argmax())])
            raise ScheduleError(f"{self.place(step)}: {self.text(step)} begins no step of a timeline; verify says more")

    def _durations(self, kind: IntArray) -> IntArray:
        problem, stages = self.problem, self.problem.total_stages
        costs = np.zeros((_W + 1, stages), dtype=np.int64)
        computes = kind <= _W
        for letter in np.unique(kind[computes]).tolist():
            costs[letter] = [problem.duration(letter, stage) for stage in range(stages)]
        ticks = np.zeros(len(self.step_rank), dtype=np.int64)
        np.add.at(ticks, self.step[computes], costs[kind[computes], op_stages(self.words[computes])])
        overlapped = np.unique(self.step[self.words >> JOIN_SHIFT == int(Join.OVERLAP)])
        for step in overlapped.tolist() if problem.overlapped else ():
            first, last = np.searchsorted(self.step, [step, step + 1])
            ticks[step] = problem.step_duration(tuple(map(unpack, self.words[first:last].tolist())))
        return ticks

    def _merged(self) -> IntArray:
        node = np.arange(len(self.step_rank))
        if all(len(ranks) == 1 for ranks in self.problem.placement):
            return node
        joint, placed = joint_steps_of(self.order, self.problem)
        computing = np.flatnonzero(kinds(self.words) <= _W)
        offset, first = 0, [-1] * len(joint)
        for row, joint_at in zip(self.order.rows, placed, strict=True):
            for index, number in joint_at.items():
                step = int(self.step[computing[offset + index]])
                first[number] = step if first[number] < 0 else first[number]
                node[step] = first[number]
            offset += len(row)
        return node


class MatchedTransfers(NamedTuple):
    """The transfers of a lowered schedule; arrays with one entry for each, in the order of the sends.

    Attributes
    ----------
    send, receive
        The operations that meet, counted rank after rank.
    made, read
        Where the output that the send sends, and the one whose tensor the receive takes for it, stand in
        :attr:`LoweredProgram.makers`. They differ only where the orders of a channel do.
    reader
        The stage that the receive is for.
    occupied, latency
        Ticks in the queue, and ticks of lag beyond it.
    size
        Bytes.
    wait, awaited
        The steps that wait for a send which stands before them, and for which transfer each does; of shape (waits,).
    """

    send: IntArray
    receive: IntArray
    made: IntArray
    read: IntArray
    reader: IntArray
    occupied: IntArray
    latency: IntArray
    size: IntArray
    wait: IntArray
    awaited: IntArray


def match(program: LoweredProgram, discipline: Discipline) -> MatchedTransfers:
    """Let sends and receives meet: by name under ``tagged``, else the n-th with the n-th of a channel.

    Raises
    ------
    ScheduleError
        If a message is missing, stands twice, is none of the schedule's, or stands on another rank than its stage; or
        if a wait is for none of them.
    """
    problem = program.problem
    at = np.flatnonzero(is_transfer(program.words))
    waits = np.flatnonzero(is_send_wait(program.words))
    full = _full(program, at)
    sends_it = is_send(program.words[at])
    needed = needed_messages(program.order, problem)
    _check(program, at, full, np.concatenate((needed.sends, needed.receives)))
    _check_waits(program, waits, needed.sends)
    source, target = (problem.owner_rank_array[stage] for stage in _ends(full))
    channel = np.where(sends_it, source * problem.ranks + target, target * problem.ranks + source)
    key = [channel] if discipline is not Discipline.TAGGED else [full & MICROBATCH_MASK, *_names(full, sends_it)]
    sends, receives = (at[side][np.lexsort((at[side], *(k[side] for k in key)))] for side in (sends_it, ~sends_it))
    order = np.argsort(sends)
    return _transfers(program, sends[order], receives[order])


def _transfers(program: LoweredProgram, send: IntArray, receive: IntArray) -> MatchedTransfers:
    problem = program.problem
    sent, received = (_full(program, ends) for ends in (send, receive))
    source, target = _ends(sent)
    reader, origin = _ends(received)
    onward = kinds(sent) == int(Kind.SEND_F)
    size = problem.boundary_bytes_array[np.where(onward, source, target)]
    sender, receiver = problem.owner_rank_array[source], problem.owner_rank_array[target]
    occupied = np.zeros_like(size)
    if problem.bandwidth:
        occupied = -(-size // _link_array(problem.bandwidth)[sender, receiver])
    latency = _link_array(problem.latency)[sender, receiver]
    made, read = (
        (stage + np.where(forward, 0, problem.total_stages)) * problem.microbatches + (words & MICROBATCH_MASK)
        for stage, forward, words in ((source, onward, sent), (origin, kinds(received) == int(Kind.RECV_F), received))
    )
    return MatchedTransfers(send, receive, made, read, reader, occupied, latency, size, *_awaited(program, send))


def _awaited(program: LoweredProgram, send: IntArray) -> tuple[IntArray, IntArray]:
    """Return the steps that wait for a send which stands before them, and which of the sends each waits for."""
    waits = np.flatnonzero(is_send_wait(program.words))
    if not len(waits):
        return waits, waits
    sent = _full(program, send)
    order = np.argsort(sent)
    found = order[np.searchsorted(sent[order], _as_sends(_full(program, waits)))]
    behind = program.step[send[found]] < program.step[waits]
    return program.step[waits[behind]], found[behind]


def _full(program: LoweredProgram, at: IntArray) -> Words:
    """Return the communication at some places with its peers named, its joins taken off."""
    return named(program.words[at] & OPERATION_MASK, program.problem)


def _as_sends(waits: Words) -> Words:
    """Return the sends that waits are for."""
    backward = kinds(waits) == int(Kind.WAIT_SEND_B)
    return waits & ~(KIND_MASK << KIND_SHIFT) | np.where(backward, int(Kind.SEND_B), int(Kind.SEND_F)) << KIND_SHIFT


def _ends(full: Words) -> tuple[IntArray, IntArray]:
    """Return the stages of fully named transfers: their own, and the one at the other end."""
    return op_stages(full), (full >> PEER_SHIFT & INDEX_MASK) - 1


def _names(full: Words, is_send: Flags) -> tuple[IntArray, IntArray, Flags]:
    """Return what identifies a tensor beside the micro-batch: who sends it, who takes it, whether it is a gradient."""
    own, peer = _ends(full)
    return np.where(is_send, own, peer), np.where(is_send, peer, own), kinds(full) >= int(Kind.SEND_B)


def _check_waits(program: LoweredProgram, waits: IntArray, needed: Words) -> None:
    """Raise a ScheduleError that names the first wait which is for no send of its rank."""
    full = _full(program, waits)
    strange = ~np.isin(_as_sends(full), needed)
    strange[~strange] = program.problem.owner_rank_array[_ends(full[~strange])[0]] != program.rank[waits[~strange]]
    if strange.any():
        index = int(strange.argmax())
        place = program.place(int(program.step[waits[index]]))
        raise ScheduleError(
            f"{place}: {unpack(int(full[index]))} is for no send that is needed there; verify says more"
        )


def _check(program: LoweredProgram, at: IntArray, full: Words, needed: Words) -> None:
    """Raise a ScheduleError that names the first of the messages that is not as needed."""
    owner_rank = program.problem.owner_rank_array
    if np.array_equal(np.sort(full), np.sort(needed)) and (owner_rank[_ends(full)[0]] == program.rank[at]).all():
        return
    order = np.argsort(full, kind="stable")
    strange = ~np.isin(full, needed)
    strange[order[1:]] |= full[order[1:]] == full[order[:-1]]
    strange[~strange] = owner_rank[op_stages(full[~strange])] != program.rank[at[~strange]]
    if strange.any():
        index = int(strange.argmax())
        place = program.place(int(program.step[at[index]]))
        raise ScheduleError(f"{place}: {unpack(int(full[index]))} is not needed there; verify says more")
    lacking = needed[~np.isin(needed, full)]
    if len(lacking):
        raise ScheduleError(f"{unpack(int(lacking.min()))} is missing; verify says more")


def _link_array(matrix: Matrix) -> IntArray:
    """Return figures of links as an array, shape ``(ranks, ranks)``; rows that are one object take the room of one."""
    first = matrix[0]
    if all(row is first for row in matrix):
        return np.broadcast_to(np.array(first, dtype=np.int64), (len(matrix), len(first)))
    return np.array(matrix, dtype=np.int64)
