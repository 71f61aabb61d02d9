"""Simulated annealing on orders, compiled: thousands of orders a second, each timed in full.

Everything runs on flat arrays of integers. Import it where it is used: it brings the compiler with it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from schedverify.core.schedule import IntArray
from schedverify.optimizer.heuristics.order_timing import FlatOps, critical_ops, new_timing, value_of

_TRIES = 20
"""Moves that are drawn before a step of the walk is given up."""
_FAR = 6
"""The most places that an operation is shifted by."""


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
    places, critical = np.zeros(size, np.int64), np.zeros(size, np.int64)
    timing, trial = new_timing(ops), new_timing(ops)
    value = value_of(ops, order, timing, span)
    best_value, best = value, order.copy()
    for move in range(moves):
        count = critical_ops(ops, order, timing, critical)
        if best_value <= target or not count:
            break
        for k in range(size):
            places[order[k]] = k
        source, goal = _move(ops, order, places, critical[:count])
        if source == goal:
            continue
        found = value_of(ops, order, trial, span)
        if found >= 0 and _stays(found - value, cooling.first + (cooling.last - cooling.first) * move / moves):
            value, timing, trial = found, trial, timing
            if value < best_value:
                best_value, best = value, order.copy()
        else:
            _shift(order, goal, source)
    return best_value, best, order


@njit(cache=True, nogil=True)
def _stays(worse: int, temperature: float) -> bool:
    return worse <= 0 or (temperature > 0 and np.random.random() < np.exp(-worse / temperature))


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
