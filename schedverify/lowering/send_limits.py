"""Where the limits of a rank ask that sends have been waited for: those of sends begun (SV404) and of bytes (SV402).

Both depend on the rank's own order alone, so that they can be kept without knowing any duration.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from schedverify.core.messages import named
from schedverify.core.op import INDEX_MASK, PEER_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import OPERATION_MASK, IntArray, Words, is_send, kinds, op_stages, positions
from schedverify.simulator.metrics import held_bytes, levels

_PAIR = (1 << 40) - 1
_F, _B, _I, _SEND_B = map(int, (Kind.F, Kind.B, Kind.I, Kind.SEND_B))
_NO_LIMIT = 1 << 62


class SendLimits:
    """What a rank's order allows of sends that are not yet waited for, none of whose waits stand in it.

    A send has the number of its place among the rank's sends.

    Attributes
    ----------
    row, sends
        The order, and where the sends stand in it as operations; shape (sends,).
    position
        By send, the step in which it stands.

    Notes
    -----
    What is sent counts from a step on: a gradient from the start of the one that makes it, an activation from the end
    of its B or I (inference: of its F). Until its own step a send cannot be waited for. So with ``held`` for the sends
    that stand before step p and are not waited for before it, p and its end hold::

        0        what stands in the order, and what is sent at p or later and counts already    what does not depend
        + size   of each of ``held`` that counts                                                on the waits
    """

    def __init__(self, row: Words, problem: Problem, rank: int) -> None:
        self.row, self.sends = row, np.flatnonzero(is_send(row))
        step = positions(row)
        self.position: list[int] = step[self.sends].tolist()
        limits = problem.outstanding_sends
        self._most = _NO_LIMIT if limits is None else limits[rank]
        self._steps = int(step[-1]) + 1 if len(row) else 0
        self._begun = np.bincount(step[self.sends], minlength=self._steps)
        self._size, self._since = _sizes(row, problem, self.sends), _counting_since(row, problem, self.sends)
        self._room: list[IntArray] = []
        """Bytes that are left for sends that are not waited for: during each step, and behind it. None if unlimited."""
        if problem.capacity is not None and len(row):
            room = problem.capacity[rank] - problem.static[rank]
            backward = kinds(row[self.sends]) == _SEND_B
            begins = self._since + 1, self._since + backward
            standing = levels(row, *held_bytes(row, problem, rank))
            self._room = [
                room - bytes_held - self._over_steps(begin, step[self.sends])
                for bytes_held, begin in zip(standing, begins, strict=True)
            ]

    def asking(self) -> list[int]:
        """Return the steps before which some sends must have been waited for, in rising order."""
        before = np.cumsum(self._begun) - self._begun
        asks = (self._begun > 0) & (before + self._begun > self._most)
        position = np.array(self.position, dtype=np.int64)
        begins = np.maximum(position, self._since) + 1, np.maximum(position + 1, self._since)
        for room, begin in zip(self._room, begins, strict=False):
            asks |= (self._over_steps(begin, np.full_like(begin, self._steps)) > room) & (room >= 0)
        return np.flatnonzero(asks).tolist()

    def _over_steps(self, begin: IntArray, last: IntArray) -> IntArray:
        """Add up by step the sizes of the sends that count there: each from a step on to its last, if there are any."""
        held = np.zeros(self._steps + 2, dtype=np.int64)
        some = begin <= last
        np.add.at(held, begin[some], self._size[some])
        np.subtract.at(held, last[some] + 1, self._size[some])
        return np.asarray(np.cumsum(held)[: self._steps])

    def fits(self, step: int, held: Iterable[int]) -> bool:
        """Whether a step is within the limits with these of the sends that stand before it not waited for.

        A step that breaks the capacity by itself, with all sends waited for, is not helped by any wait.
        """
        sends = list(held)
        begun = int(self._begun[step])
        if begun and len(sends) + begun > self._most:
            return False
        counting = (self._since[sends] < step, self._since[sends] <= step)
        rooms = [int(room[step]) for room in self._room]
        return all(
            room < 0 or int(self._size[sends][counts].sum()) <= room
            for room, counts in zip(rooms, counting, strict=False)
        )


def _sizes(row: Words, problem: Problem, sends: IntArray) -> IntArray:
    """Return the bytes of each of some sends."""
    full = named(row[sends] & OPERATION_MASK, problem)
    stage, peer = op_stages(full), (full >> PEER_SHIFT & INDEX_MASK) - 1
    return np.asarray(problem.boundary_bytes_array[np.where(kinds(full) == _SEND_B, peer, stage)])


def _counting_since(row: Words, problem: Problem, sends: IntArray) -> IntArray:
    """Return the step from whose end on each of some sends counts; for a gradient, the one before its maker."""
    kind, step = kinds(row), positions(row)
    ends = np.flatnonzero(kind == _F if problem.form == "inference" else (kind == _B) | (kind == _I))
    pairs, first = np.unique(row[ends] & _PAIR, return_index=True)
    end = ends[first[np.searchsorted(pairs, row[sends] & _PAIR)]]
    return np.asarray(step[end] - (kind[sends] == _SEND_B))
