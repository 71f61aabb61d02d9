"""What an order of operations comes to, compiled: times, makespan or span, and what makes it so long.

Everything runs on flat arrays of integers. Import it where it is used: it brings the compiler with it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from schedverify.core.schedule import IntArray
from schedverify.simulator.kernels import settle

_FROM_NOTHING = -1
"""The reason of a start at 0, or of a first step that waits for nothing but its release."""
_FROM_RANK = -2
"""The reason of a start that waits for the operation before it on the rank."""
_SWEEPS = 32
"""Timings of one order after which its longest window, which is no less, stands for its span; a few usually do."""


class FlatOps(NamedTuple):
    """The operations of a problem as flat arrays; an operation is its number ``u``, from 0 to ``ops - 1``.

    An order is one array too: for each rank in turn its operations, in the order in which it runs them. With five
    operations on two ranks, of which rank 0 has 0, 1, 2 and rank 1 has 3, 4::

        place        0  1  2  3  4
        order      [ 0  2  1  3  4 ]         rank 0 runs 0, 2, 1, and rank 1 runs 3, 4
        rank_begin [ 0        3       5 ]    rank r stands at order[rank_begin[r]:rank_begin[r + 1]]

    What an operation reads is a row of its own length, and these rows stand one behind another; who reads it likewise.
    Where 3 reads 0, and 4 reads 3 and 1::

        input_begin [ 0  0  0  0  1  3 ]     operation u reads inputs[input_begin[u]:input_begin[u + 1]]
        inputs      [ 0 | 3  1 ]
        reader_begin[ 0  1  2  2  3  3 ]     operation u is read by readers[reader_begin[u]:reader_begin[u + 1]]
        readers     [ 3 | 4 | 4 | -1 ]       one more entry than there are, since a loop may look past the last

    Attributes
    ----------
    rank_begin
        Shape (ranks + 1,): where the operations of each rank begin in an order, and where the last ones end.
    duration, rank, fifo_line
        Shape (ops,): scaled ticks; the rank; the number of the stage and letter whose operations keep their order.
    input_begin, inputs, lags
        Shapes (ops + 1,), (inputs,) and (inputs,): what each operation waits for, and the scaled ticks between the end
        of that and the start that it allows.
    reader_begin, readers
        Shapes (ops + 1,) and (inputs + 1,): who waits for each operation.
    start_bytes, net_bytes, start_in_flight, net_in_flight
        Shape (ops,): see :class:`~schedverify.optimizer.orders.Footprint`.
    byte_limit, in_flight_limit
        Shape (ranks,): the most that a rank may hold.
    end_limit
        Scaled ticks by which the earliest timeline of an order must have ended.
    """

    rank_begin: IntArray
    duration: IntArray
    rank: IntArray
    fifo_line: IntArray
    input_begin: IntArray
    inputs: IntArray
    lags: IntArray
    reader_begin: IntArray
    readers: IntArray
    start_bytes: IntArray
    net_bytes: IntArray
    start_in_flight: IntArray
    net_in_flight: IntArray
    byte_limit: IntArray
    in_flight_limit: IntArray
    end_limit: int


class Timing(NamedTuple):
    """What one timing of an order fills in.

    Attributes
    ----------
    start, reason, origin
        Shape (ops,): the start in scaled ticks; the operation whose end sets it, or a constant from above; the rank
        from whose first step, started at its release, a longest path leads there.
    previous, following
        Shape (ops,): the neighbours on the rank, -1 at the ends.
    pending, queue
        Shape (ops,): what an operation still waits for is counted in ``pending``; at 0 it joins ``queue``, which is
        worked off from the left::

            queue [ 3  0  4  2  . ]
                    timed  ready      done = 2 are timed, ready = 4 have joined; if they meet before the end, none can

    release, before, ways
        Shape (ranks,): the scaled ticks before which the first step does not start. Then the ranks whose last steps
        make the value: -1 for those that do not; for the span, a cycle of ranks, each with the one before it and the
        way from there.
    all_origins, all_ways
        What :func:`~schedverify.simulator.span.settle` takes, of all timings of an order.
    """

    start: IntArray
    reason: IntArray
    origin: IntArray
    previous: IntArray
    following: IntArray
    pending: IntArray
    queue: IntArray
    release: IntArray
    before: IntArray
    ways: IntArray
    all_origins: IntArray
    all_ways: IntArray


@njit(cache=True, nogil=True)
def new_timing(ops: FlatOps) -> Timing:
    """Return room for a timing."""
    of_op, ranks = np.zeros((7, len(ops.duration)), np.int64), len(ops.rank_begin) - 1
    of_rank, of_sweep = np.zeros((3, ranks), np.int64), np.zeros((2, ranks * _SWEEPS), np.int64)
    return Timing(
        of_op[0], of_op[1], of_op[2], of_op[3], of_op[4], of_op[5], of_op[6],
        of_rank[0], of_rank[1], of_rank[2], of_sweep[0], of_sweep[1],
    )  # fmt: skip


@njit(cache=True, nogil=True)
def _time_order(ops: FlatOps, order: IntArray, timing: Timing) -> bool:
    """Start every operation as early as the order and the releases allow; return whether all of them can run.

    The reason of a start is the input that came last, or else the operation before it on its rank. The arrays are
    taken out of their tuples first, which makes it five times as fast.
    """
    duration, input_begin, inputs, lags = ops.duration, ops.input_begin, ops.inputs, ops.lags
    reader_begin, readers = ops.reader_begin, ops.readers
    start, reason, previous, following = timing.start, timing.reason, timing.previous, timing.following
    origin, release, rank = timing.origin, timing.release, ops.rank
    _link(ops.rank_begin, order, previous, following)
    pending, queue = timing.pending, timing.queue
    ready = _first_ready(input_begin, previous, pending, queue)
    for done in range(len(order)):
        if done == ready:
            return False
        u = queue[done]
        now, why = 0, _FROM_NOTHING
        for k in range(input_begin[u], input_begin[u + 1]):
            arrival = start[inputs[k]] + duration[inputs[k]] + lags[k]
            if arrival >= now:
                now, why = arrival, inputs[k]
        source, v = origin[max(why, 0)], previous[u]
        if v >= 0 and start[v] + duration[v] > now:
            now, why, source = start[v] + duration[v], _FROM_RANK, origin[v]
        if v < 0 and (release[rank[u]] > now or why == _FROM_NOTHING):
            now, why, source = release[rank[u]], _FROM_NOTHING, rank[u]
        start[u], reason[u], origin[u] = now, why, source
        for k in range(reader_begin[u], reader_begin[u + 1] + 1):  # the last one stands for who follows on the rank
            v = readers[k] if k < reader_begin[u + 1] else following[u]
            if v >= 0:
                pending[v] -= 1
                if not pending[v]:
                    queue[ready] = v
                    ready += 1
    return True


@njit(cache=True, nogil=True)
def _first_ready(input_begin: IntArray, previous: IntArray, pending: IntArray, queue: IntArray) -> int:
    """Count what each operation waits for, and queue those that wait for nothing; return how many these are."""
    ready = 0
    for u in range(len(pending)):
        pending[u] = input_begin[u + 1] - input_begin[u] + (previous[u] >= 0)
        if not pending[u]:
            queue[ready] = u
            ready += 1
    return ready


@njit(cache=True, nogil=True)
def _link(rank_begin: IntArray, order: IntArray, previous: IntArray, following: IntArray) -> None:
    """Write for each operation its neighbours on its rank into ``previous`` and ``following``."""
    for rank in range(len(rank_begin) - 1):
        before = -1
        for k in range(rank_begin[rank], rank_begin[rank + 1]):
            u = order[k]
            previous[u] = before
            following[u] = -1
            if before >= 0:
                following[before] = u
            before = u


@njit(cache=True, nogil=True)
def value_of(ops: FlatOps, order: IntArray, timing: Timing, span: bool) -> int:
    """Time an order, and return its makespan, or its span, in scaled ticks; -1 where it cannot run or ends too late."""
    timing.release[:] = 0
    if not _time_order(ops, order, timing):
        return -1
    last = _last_rank(ops, order, timing, False)
    makespan = _window(ops, order, timing, last, False)
    if makespan > ops.end_limit:
        return -1
    if not span:
        timing.before[:] = -1
        timing.before[last] = last
        return makespan
    least, longest, count, ranks = 0, 0, 0, len(timing.release)
    while True:
        for rank in range(ranks):
            u = order[ops.rank_begin[rank + 1] - 1]
            works = ops.rank_begin[rank] < ops.rank_begin[rank + 1]
            timing.all_origins[count] = timing.origin[u] if works else -1
            timing.all_ways[count] = (
                timing.start[u] + ops.duration[u] - timing.release[timing.origin[u]] if works else 0
            )
            count += 1
        longest = _window(ops, order, timing, _last_rank(ops, order, timing, True), True)
        least = int(
            settle(timing.all_origins, timing.all_ways, count, least, timing.release, timing.before, timing.ways)
        )
        if longest <= least:
            return least
        if count == ranks * _SWEEPS:
            return longest
        _time_order(ops, order, timing)


@njit(cache=True, nogil=True)
def _window(ops: FlatOps, order: IntArray, timing: Timing, rank: int, span: bool) -> int:
    """Return the end of a rank's last operation, for the span less the start of its first; 0 where it has none."""
    begin, end = ops.rank_begin[rank], ops.rank_begin[rank + 1]
    if begin == end:
        return 0
    u = order[end - 1]
    since = timing.start[order[begin]] if span else 0
    return int(timing.start[u] + ops.duration[u] - since)


@njit(cache=True, nogil=True)
def _last_rank(ops: FlatOps, order: IntArray, timing: Timing, span: bool) -> int:
    """Return the rank that ends last, for the span the one with the longest window."""
    last = 0
    for rank in range(1, len(ops.rank_begin) - 1):
        if _window(ops, order, timing, rank, span) > _window(ops, order, timing, last, span):
            last = rank
    return last


@njit(cache=True, nogil=True)
def critical_ops(ops: FlatOps, order: IntArray, timing: Timing, critical: IntArray) -> int:
    """Write the operations on critical paths that wait for their rank into ``critical``; return how many.

    One path leads to the last operation of each rank that makes the value.
    """
    count = 0
    for rank in range(len(timing.before)):
        u = order[ops.rank_begin[rank + 1] - 1] if timing.before[rank] >= 0 else -1
        while u >= 0 and count < len(critical):
            if timing.reason[u] == _FROM_RANK:
                critical[count] = u
                count += 1
                u = timing.previous[u]
            else:
                u = timing.reason[u]
    return count
