"""The span three times over, from the semantics alone: by means of cycles, by difference constraints, by batches.

It imports nothing of schedverify. What is timed is a *batch*: a function from how long the first step of each rank is
held to where, on each rank, that step then starts and the last one ends (None of a rank without steps).
"""

from __future__ import annotations

from collections.abc import Callable
from fractions import Fraction
from itertools import permutations
from math import lcm
from typing import Any

from oracle.lowered_times import Run
from oracle.times import Clock, earliest_of, places_in

Window = tuple[int, int]
Batch = Callable[[list[int]], list[Window | None]]


def batch_of(clock: Clock) -> Batch:
    """Return the batch of a compute order: its steps, each as early as it may start."""
    rows = clock.case.rows
    number = {place: index for index, place in enumerate(places_in(rows))}
    order = dict(zip(number, (time for row in earliest_of(clock) for time in row), strict=True))
    apart = [
        (number[before], number[after], ticks)
        for after in sorted(number, key=order.__getitem__)
        for before, ticks in clock.waits(after)
    ]
    first = [number[rank, 0] if row else None for rank, row in enumerate(rows)]
    last = [(number[rank, len(row) - 1], clock.cost(row[-1])) if row else None for rank, row in enumerate(rows)]

    def batch(held: list[int]) -> list[Window | None]:
        starts = [0] * len(number)
        for rank, node in enumerate(first):
            if node is not None:
                starts[node] = held[rank]
        changed = True
        while changed:
            changed = False
            for before, after, ticks in apart:
                if starts[before] + ticks > starts[after]:
                    starts[after] = starts[before] + ticks
                    changed = True
        return [
            None if node is None or end is None else (starts[node], starts[end[0]] + end[1])
            for node, end in zip(first, last, strict=True)
        ]

    return batch


def lowered_batch(rows: list[list[str]], problem: dict[str, Any], discipline: str, eager_bytes: int) -> Batch:
    """Return the batch of a lowered order: what it computes, while the messages of other batches bother nobody."""

    def batch(held: list[int]) -> list[Window | None]:
        times = Run(rows, problem, discipline, eager_bytes, held).compute_times
        return [(row[0][0], row[-1][1]) if row else None for row in times]

    return batch


def earliest_window(batch: Batch, ranks: int) -> int:
    """Return the longest window where no first step is held."""
    return max((window[1] - window[0] for window in batch([0] * ranks) if window), default=0)


def by_cycle_means(batch: Batch, ranks: int) -> int:
    """Return the largest mean of the longest ways along any cycle of ranks, rounded up.

    Where one first step is held for ever, so is the end of every rank that it leads to: by the longest way.
    """
    ever = 1 << 40
    ways: dict[tuple[int, int], int] = {}
    for held in range(ranks):
        for rank, window in enumerate(batch([ever * (each == held) for each in range(ranks)])):
            if window and window[1] >= ever:
                ways[held, rank] = window[1] - ever
    best = Fraction(0)
    for size in range(1, ranks + 1):
        for cycle in permutations(range(ranks), size):
            hops = list(zip(cycle, (*cycle[1:], cycle[0]), strict=True))
            if all(hop in ways for hop in hops):
                best = max(best, Fraction(sum(ways[hop] for hop in hops), size))
    return -(-best.numerator // best.denominator)


def by_difference_constraints(batch: Batch, ranks: int) -> int:
    """Return the least T, found by halving, for which first steps can be held so that no window is longer."""
    low, high = -1, earliest_window(batch, ranks)  # too little, and enough
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if _fits(batch, ranks, middle) else (middle, high)
    return high


def _fits(batch: Batch, ranks: int, most: int) -> bool:
    """Whether first steps, held no more than they must be, come to rest: if ever, within as many rounds as ranks."""
    held = [0] * ranks
    for _ in range(ranks + 1):
        windows = batch(held)
        held = [max(least, window[1] - most) if window else 0 for least, window in zip(held, windows, strict=True)]
        if all(window[1] - window[0] <= most for window in windows if window):
            return True
    return False


def by_batches(batch: Batch, ranks: int, most: int) -> int:
    """Return how many ticks a batch takes in the long run, rounded up, where each rank runs one after another.

    A rank begins a batch when it has ended the one before, and waits for nothing else but what the batch itself says.
    Ends are compared over as many batches as every cycle's length divides. No rank is ever ahead of the long run for
    good: the most that any end moves in that time is never less than in the long run, and comes to be that. So it is
    the least that is met in ``most`` batches, or what it is once all ends move alike.
    """
    count = lcm(*range(1, ranks + 1))
    ends, least = [[0] * ranks], None
    while len(ends) <= most:
        windows = batch(ends[-1])
        ends.append([window[1] if window else 0 for window in windows])
        if len(ends) > count:
            moved = {end - start for end, start, it in zip(ends[-1], ends[-1 - count], windows, strict=True) if it}
            least = max(moved, default=0) if least is None else min(least, max(moved, default=0))
            if len(moved) == 1:
                break
    return -(-(least or 0) // count)
