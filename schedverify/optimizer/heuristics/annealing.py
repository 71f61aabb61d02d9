"""Simulated annealing on orders, compiled: thousands of orders a second, each timed in full.

Everything here runs on flat arrays of integers, one place for each operation. Import it where it is used: it brings
the compiler with it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit
from numpy.typing import NDArray

Ints = NDArray[np.int64]

_FROM_NOTHING = -1
_FROM_RANK = -2
_TRIES = 20
_FAR = 6


class Jobs(NamedTuple):
    """The operations of a problem as flat arrays, an entry for each operation.

    Attributes
    ----------
    first
        By rank where its operations begin in an order; one more entry for the end.
    duration, rank, line
        Ticks; the rank; the number of the class (stage and kind of step) whose operations keep their order.
    before, before_of, lag
        What an operation waits for: ``before[before_of[u]:before_of[u + 1]]``, each with its lag behind the end.
    after, after_of
        Who waits for an operation, likewise.
    taken, kept
        Bytes that it takes at its start, and what it changes the rank's bytes by once it has ended.
    opened, left
        The same for micro-batches in flight.
    room, most
        By rank, the limits of both.
    """

    first: Ints
    duration: Ints
    rank: Ints
    line: Ints
    before_of: Ints
    before: Ints
    lag: Ints
    after_of: Ints
    after: Ints
    taken: Ints
    kept: Ints
    opened: Ints
    left: Ints
    room: Ints
    most: Ints


class _Clock(NamedTuple):
    """What one sweep fills: starts, what each start waited for, neighbours on the rank, and its working space."""

    start: Ints
    reason: Ints
    previous: Ints
    following: Ints
    waits: Ints
    queue: Ints


class Heat(NamedTuple):
    """How warm a walk is at its first and its last move: the worsening, in ticks, that is accepted one time in e."""

    first: float
    last: float


@njit(cache=True, nogil=True)
def anneal(
    jobs: Jobs, order: Ints, moves: int, heat: Heat, target: int, span: bool, seed: int
) -> tuple[int, Ints, Ints]:
    """Walk so many moves from an order; return the least value met, its order, and where the walk ended.

    The value is the makespan, or the span. Each move takes an operation of a critical path that waits for the one
    before it on its rank, and shifts one of the two past the other, or some places further. An order that is no worse
    stays; one that is worse by ``d`` stays with probability ``exp(-d / heat)``; one that breaks a limit or cannot run
    is undone. The walk is over where ``target`` is met or where no rank makes anything wait.

    The first order must run and keep all limits. The same arguments give the same result.
    """
    np.random.seed(seed)
    size = len(jobs.duration)
    order = order.copy()
    places, critical = np.zeros(size, np.int64), np.zeros(size, np.int64)
    clock = _Clock(
        np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size, np.int64),
        np.zeros(size, np.int64), np.zeros(size, np.int64), np.zeros(size, np.int64),
    )  # fmt: skip
    _sweep(jobs, order, clock)
    value, last = _value(jobs, order, clock.start, span)
    best_value, best = value, order.copy()
    for move in range(moves):
        count = _critical(clock.reason, clock.previous, last, critical)
        if best_value <= target or not count:
            break
        for k in range(size):
            places[order[k]] = k
        source, goal = _move(jobs, order, places, critical[:count])
        if source == goal:
            continue
        found, last_found = -1, -1
        if _sweep(jobs, order, clock):
            found, last_found = _value(jobs, order, clock.start, span)
        if found >= 0 and _stays(found - value, heat.first + (heat.last - heat.first) * move / moves):
            value, last = found, last_found
            if value < best_value:
                best_value, best = value, order.copy()
        else:
            _shift(order, goal, source)
            _sweep(jobs, order, clock)
    return best_value, best, order


@njit(cache=True, nogil=True)
def _stays(worse: int, heat: float) -> bool:
    return worse <= 0 or (heat > 0 and np.random.random() < np.exp(-worse / heat))


@njit(cache=True, nogil=True)
def _sweep(jobs: Jobs, order: Ints, clock: _Clock) -> bool:
    """Start every operation as early as the order allows; return whether all of them can run.

    The reason of a start is the input that came last, or else the operation before it on its rank. The arrays are
    taken out of their tuples first, which makes it five times as fast.
    """
    duration, before_of, before, lag = jobs.duration, jobs.before_of, jobs.before, jobs.lag
    after_of, after = jobs.after_of, jobs.after
    start, reason, previous, following = clock.start, clock.reason, clock.previous, clock.following
    _link(jobs.first, order, previous, following)
    waits, queue = clock.waits, clock.queue
    ready = _first_ready(before_of, previous, waits, queue)
    for done in range(len(order)):
        if done == ready:
            return False
        u = queue[done]
        now, why = 0, _FROM_NOTHING
        for k in range(before_of[u], before_of[u + 1]):
            there = start[before[k]] + duration[before[k]] + lag[k]
            if there >= now:
                now, why = there, before[k]
        v = previous[u]
        if v >= 0 and start[v] + duration[v] > now:
            now, why = start[v] + duration[v], _FROM_RANK
        start[u], reason[u] = now, why
        for k in range(after_of[u], after_of[u + 1] + 1):
            v = after[k] if k < after_of[u + 1] else following[u]
            if v >= 0:
                waits[v] -= 1
                if not waits[v]:
                    queue[ready] = v
                    ready += 1
    return True


@njit(cache=True, nogil=True)
def _first_ready(before_of: Ints, previous: Ints, waits: Ints, queue: Ints) -> int:
    """Count what each operation waits for, and queue those that wait for nothing; return how many these are."""
    ready = 0
    for u in range(len(waits)):
        waits[u] = before_of[u + 1] - before_of[u] + (previous[u] >= 0)
        if not waits[u]:
            queue[ready] = u
            ready += 1
    return ready


@njit(cache=True, nogil=True)
def _link(first: Ints, order: Ints, previous: Ints, following: Ints) -> None:
    """Note for each operation its neighbours on its rank."""
    for rank in range(len(first) - 1):
        before = -1
        for k in range(first[rank], first[rank + 1]):
            u = order[k]
            previous[u] = before
            following[u] = -1
            if before >= 0:
                following[before] = u
            before = u


@njit(cache=True, nogil=True)
def _value(jobs: Jobs, order: Ints, start: Ints, span: bool) -> tuple[int, int]:
    """Return the makespan or span, and the operation that ends it."""
    worst, last = -1, -1
    for rank in range(len(jobs.first) - 1):
        begin, end = jobs.first[rank], jobs.first[rank + 1]
        if begin < end:
            u = order[end - 1]
            value = start[u] + jobs.duration[u] - (start[order[begin]] if span else 0)
            if value > worst:
                worst, last = value, u
    return worst, last


@njit(cache=True, nogil=True)
def _critical(reason: Ints, previous: Ints, last: int, critical: Ints) -> int:
    """Gather the operations on a critical path that wait for their rank; return how many."""
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
def _move(jobs: Jobs, order: Ints, places: Ints, critical: Ints) -> tuple[int, int]:
    """Make a random move that keeps lines and limits; return from which place to which, or the same place twice."""
    for _ in range(_TRIES):
        source = places[critical[np.random.randint(len(critical))]]
        rank = jobs.rank[order[source]]
        far = 1 + np.random.randint(_FAR) if np.random.random() < 0.5 else 1
        if np.random.random() < 0.5:
            goal = max(jobs.first[rank], source - far)
        else:
            source, goal = source - 1, min(jobs.first[rank + 1] - 1, source - 1 + far)
        if not _in_line(jobs.line, order, source, goal):
            continue
        _shift(order, source, goal)
        if _fits(jobs, order, rank, max(source, goal)):
            return source, goal
        _shift(order, goal, source)
    return 0, 0


@njit(cache=True, nogil=True)
def _in_line(line: Ints, order: Ints, source: int, goal: int) -> bool:
    """Whether an operation passes none of its own line on the way."""
    way = range(goal, source) if goal < source else range(source + 1, goal + 1)
    for k in way:  # noqa: SIM110 - the compiler takes no generators
        if line[order[k]] == line[order[source]]:
            return False
    return True


@njit(cache=True, nogil=True)
def _shift(order: Ints, source: int, goal: int) -> None:
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
def _fits(jobs: Jobs, order: Ints, rank: int, until: int) -> bool:
    """Whether a rank keeps its limits up to a place in its order."""
    taken, kept, opened, left = jobs.taken, jobs.kept, jobs.opened, jobs.left
    room, most = jobs.room[rank], jobs.most[rank]
    held = flying = 0
    for k in range(jobs.first[rank], until + 1):
        u = order[k]
        if held + taken[u] > room or flying + opened[u] > most:
            return False
        held += kept[u]
        flying += left[u]
    return True
