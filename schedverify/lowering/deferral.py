"""Moves receives towards the steps that read them, as late as is safe."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from itertools import pairwise

import numpy as np

from schedverify.core.argument_types import check_types
from schedverify.core.discipline import DEFAULT_DISCIPLINE, Discipline
from schedverify.core.messages import named
from schedverify.core.op import INDEX_MASK, MICROBATCH_MASK, PEER_SHIFT, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words, is_transfer, kinds, op_stages, step_bounds, waits_for_sends

_W = int(Kind.W)


def defer_receives(schedule: Schedule, problem: Problem, discipline: str = DEFAULT_DISCIPLINE) -> Schedule:
    """Return a lowered schedule with each receive right before the step that reads it, or as near as is safe.

    A receive never passes a send to the same peer, nor another receive from it, so that the order of the messages
    between two ranks stays as it is; up to ``pair`` that is all. Under ``rank`` and ``block`` messages with other peers
    are in the same queue, and steps that several ranks share tie the queues together: there a receive passes nothing
    but the compute steps of its own rank. Groups stay where they are. Where a WAIT_SEND stands, so do all receives: a
    rank that waits until it has sent may be the one that the next step waits for.

    What is free of deadlock under the discipline before is so after: a cycle through a receive that was moved past a
    step would need a way from the transfer to that step, and every such way goes through a message that the receive
    did not pass.
    """
    check_types("defer_receives", schedule=(schedule, Schedule), problem=(problem, Problem))
    if waits_for_sends(schedule):
        return schedule
    one_queue = Discipline.of(discipline) in (Discipline.RANK, Discipline.BLOCK)
    return Schedule(_DeferredRow(row, problem, one_queue).words() for row in schedule.rows)


class _DeferredRow:
    """One rank's order, whose receives wait in queues until a step reads them or a message must come behind them.

    Each operation is seen as its packed word, its kind, the queue of a transfer (-1 for others) and a key of the step
    that reads or makes its tensor: stage, direction and micro-batch, equal for F and RECV_F, and for B or I and RECV_B.
    A step that several ranks share lets go of all receives where there is one queue (a barrier)::

        order     RECV_F0  RECV_F1  F0       SEND_F0  F1          with one queue
        waiting   F0       F0 F1    F1       -        -
        yielded                     RECV_F0  RECV_F1  F1
                                    F0       SEND_F0
    """

    def __init__(self, row: Words, problem: Problem, one_queue: bool) -> None:
        self.waiting: dict[int, deque[tuple[int, int]]] = {}
        """By queue, the receives that wait, each with the key of the step that reads it."""
        self.queues_of: dict[int, list[int]] = {}
        """By the key of a step, the queues of the receives that wait for it."""
        kind, stage = kinds(row), op_stages(row)
        peer = (named(row, problem) >> PEER_SHIFT & INDEX_MASK) - 1
        owner_rank, transfer = np.append(problem.owner_rank_array, -1), is_transfer(row)
        forward = (kind == int(Kind.F)) | (kind == int(Kind.RECV_F))
        key = (stage * 2 + forward) << STAGE_SHIFT | row & MICROBATCH_MASK
        shared = np.array([len(ranks) > 1 for ranks in problem.placement])[np.minimum(stage, problem.total_stages - 1)]
        queue = np.where(transfer, 0 if one_queue else owner_rank[peer], -1)
        self.operations = list(zip(row.tolist(), kind.tolist(), queue.tolist(), key.tolist(), strict=True))
        self.is_barrier = (shared & one_queue & ~transfer).tolist()
        self.begins = step_bounds(row).tolist()

    def words(self) -> Iterator[int]:
        """Yield the operations in their new order."""
        for begin, end in pairwise(self.begins):
            step = self.operations[begin:end]
            word, kind, queue, key = step[0]
            if len(step) == 1 and kind in (Kind.RECV_F, Kind.RECV_B):
                self.waiting.setdefault(queue, deque()).append((word, key))
                self.queues_of.setdefault(key, []).append(queue)
                continue
            for _, kind, queue, key in step:
                if kind <= _W:
                    yield from self._received(key)
                elif queue >= 0:
                    yield from self._flushed(queue)
            if any(self.is_barrier[begin:end]):
                yield from self._flushed(0)
            yield from (word for word, _, _, _ in step)
        for queue in list(self.waiting):
            yield from self._flushed(queue)

    def _received(self, key: int) -> Iterator[int]:
        """Yield the receives that a step reads, and those before them in their queues."""
        for queue in self.queues_of.pop(key, ()):
            waiting = self.waiting[queue]
            while waiting:
                word, other = waiting.popleft()
                yield word
                if other == key:
                    break

    def _flushed(self, queue: int) -> Iterator[int]:
        """Yield all receives of a queue."""
        waiting = self.waiting.get(queue, ())
        while waiting:
            yield waiting.popleft()[0]
