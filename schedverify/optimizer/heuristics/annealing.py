"""Simulated annealing on orders, compiled: thousands of orders a second, each timed in full.

Everything runs on flat arrays of integers. Import it where it is used: it brings the compiler with it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from schedverify.core.schedule import IntArray

_FROM_NOTHING = -1
"""The reason of a start at 0."""
_FROM_RANK = -2
"""The reason of a start that waits for the operation before it on the rank."""
_TRIES = 20
"""Moves that are drawn before a step of the walk is given up."""
_FAR = 6
"""The most places that an operation is shifted by."""


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


class _Timing(NamedTuple):
    """What one timing of an order fills in, each of shape (ops,).

    ``start`` is in scaled ticks; ``reason`` is the operation whose end sets the start, or a constant from above;
    ``previous`` and ``following`` are the neighbours on the rank, -1 at the ends. ``pending`` counts what an operation
    still waits for; at 0 it joins ``queue``, which is worked off from the left::

        queue [ 3  0  4  2  . ]
                timed  ready      done = 2 are timed, ready = 4 have joined; if they meet before the end, none can run
    """

    start: IntArray
    reason: IntArray
    previous: IntArray
    following: IntArray
    pending: IntArray
    queue: IntArray


class Cooling(NamedTuple):
    """The temperature at the first and the last move of a walk: a worsening by it is accepted one time in e."""

    first: float
    last: float


@njit(cache=True, nogil=True)
def anneal(
    ops: FlatOps, order: IntArray, moves: int, cooling: Cooling, target: int, span: bool, seed: int
) -> tuple[int, IntArray, IntArray]:
    """Walk so many moves from an order; return the least value met, its order, and where the walk ended.

    The value is the makespan, or the span. Each move takes an operation of a critical path that waits for the one
    before it on its rank, and shifts one of the two past the other, or some places further. An order that is no worse
    stays; one that is worse by ``d`` stays with probability ``exp(-d / temperature)``; one that breaks a limit or
    cannot run is undone. The walk is over where ``target`` is met or where no rank makes anything wait.

    The first order must run and keep all limits. The same arguments give the same result.
    """
    np.random.seed(seed)
    size = len(ops.duration)
    order = order.copy()
    arrays = np.zeros((8, size), np.int64)
    places, critical = arrays[0], arrays[1]
    timing = _Timing(arrays[2], arrays[3], arrays[4], arrays[5], arrays[6], arrays[7])
    _time_order(ops, order, timing)
    value, last = _value(ops, order, timing.start, span)
    best_value, best = value, order.copy()
    for move in range(moves):
        count = _critical(timing.reason, timing.previous, last, critical)
        if best_value <= target or not count:
            break
        for k in range(size):
            places[order[k]] = k
        source, goal = _move(ops, order, places, critical[:count])
        if source == goal:
            continue
        found, last_found = -1, -1
        if _time_order(ops, order, timing):
            found, last_found = _value(ops, order, timing.start, span)
        if found >= 0 and _stays(found - value, cooling.first + (cooling.last - cooling.first) * move / moves):
            value, last = found, last_found
            if value < best_value:
                best_value, best = value, order.copy()
        else:
            _shift(order, goal, source)
            _time_order(ops, order, timing)
    return best_value, best, order


@njit(cache=True, nogil=True)
def _stays(worse: int, temperature: float) -> bool:
    return worse <= 0 or (temperature > 0 and np.random.random() < np.exp(-worse / temperature))


@njit(cache=True, nogil=True)
def _time_order(ops: FlatOps, order: IntArray, timing: _Timing) -> bool:
    """Start every operation as early as the order allows; return whether all of them can run.

    The reason of a start is the input that came last, or else the operation before it on its rank. The arrays are
    taken out of their tuples first, which makes it five times as fast.
    """
    duration, input_begin, inputs, lags = ops.duration, ops.input_begin, ops.inputs, ops.lags
    reader_begin, readers = ops.reader_begin, ops.readers
    start, reason, previous, following = timing.start, timing.reason, timing.previous, timing.following
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
        v = previous[u]
        if v >= 0 and start[v] + duration[v] > now:
            now, why = start[v] + duration[v], _FROM_RANK
        start[u], reason[u] = now, why
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
def _value(ops: FlatOps, order: IntArray, start: IntArray, span: bool) -> tuple[int, int]:
    """Return the makespan or span, and the operation that ends it."""
    worst, last = -1, -1
    for rank in range(len(ops.rank_begin) - 1):
        begin, end = ops.rank_begin[rank], ops.rank_begin[rank + 1]
        if begin < end:
            u = order[end - 1]
            value = start[u] + ops.duration[u] - (start[order[begin]] if span else 0)
            if value > worst:
                worst, last = value, u
    return worst, last


@njit(cache=True, nogil=True)
def _critical(reason: IntArray, previous: IntArray, last: int, critical: IntArray) -> int:
    """Write the operations on a critical path that wait for their rank into ``critical``; return how many."""
    count, u = 0, last
    while u >= 0:
        if reason[u] == _FROM_RANK:
            critical[count] = u
            count += 1
            u = previous[u]
        else:
            u = reason[u]
    return count


@njit(cache=True, nogil=True)
def _move(ops: FlatOps, order: IntArray, places: IntArray, critical: IntArray) -> tuple[int, int]:
    """Make a random move that keeps FIFO lines and limits; return from where to where, one place twice for none."""
    for _ in range(_TRIES):
        source = places[critical[np.random.randint(len(critical))]]
        rank = ops.rank[order[source]]
        far = 1 + np.random.randint(_FAR) if np.random.random() < 0.5 else 1
        if np.random.random() < 0.5:
            goal = max(ops.rank_begin[rank], source - far)
        else:
            source, goal = source - 1, min(ops.rank_begin[rank + 1] - 1, source - 1 + far)
        if not _in_line(ops.fifo_line, order, source, goal):
            continue
        _shift(order, source, goal)
        if _fits(ops, order, rank, max(source, goal)):
            return source, goal
        _shift(order, goal, source)
    return 0, 0


@njit(cache=True, nogil=True)
def _in_line(fifo_line: IntArray, order: IntArray, source: int, goal: int) -> bool:
    """Whether an operation passes none of its own FIFO line on the way."""
    way = range(goal, source) if goal < source else range(source + 1, goal + 1)
    for k in way:  # noqa: SIM110 - the compiler takes no generators
        if fifo_line[order[k]] == fifo_line[order[source]]:
            return False
    return True


@njit(cache=True, nogil=True)
def _shift(order: IntArray, source: int, goal: int) -> None:
    """Take an operation out at one place and put it in at another."""
    u = order[source]
    if goal < source:
        for k in range(source, goal, -1):
            order[k] = order[k - 1]
    else:
        for k in range(source, goal):
            order[k] = order[k + 1]
    order[goal] = u


@njit(cache=True, nogil=True)
def _fits(ops: FlatOps, order: IntArray, rank: int, until: int) -> bool:
    """Whether a rank keeps its limits up to a place in its order."""
    start_bytes, net_bytes = ops.start_bytes, ops.net_bytes
    start_in_flight, net_in_flight = ops.start_in_flight, ops.net_in_flight
    byte_limit, in_flight_limit = ops.byte_limit[rank], ops.in_flight_limit[rank]
    live_bytes = in_flight = 0
    for k in range(ops.rank_begin[rank], until + 1):
        u = order[k]
        if live_bytes + start_bytes[u] > byte_limit or in_flight + start_in_flight[u] > in_flight_limit:
            return False
        live_bytes += net_bytes[u]
        in_flight += net_in_flight[u]
    return True
