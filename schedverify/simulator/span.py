"""The span of the orders of a schedule (semantics, section 5): at which rate one batch can follow another.

Batches begin ``T`` ticks apart where some timeline of the orders, in which the first step of a rank may wait, gives no
rank a window (from the start of its first step to the end of its last) of more than ``T``. A *way* is the longest path
of steps from the first step of one rank to the end of the last step of another, or of itself. Where ways lead from rank
to rank and back, each goes from a batch to the next, so that as many batches as there are ways take at least their sum:
the span is the largest mean of such a cycle, rounded up.

There are as many ways as pairs of ranks, and few of them matter. So one sweep over the steps finds only the way that
each rank's last end goes back to, ``T`` becomes the largest mean of the cycles of the ways that are known, and first
steps wait until these ways fit. Where a window of the next sweep is longer, its way was not known. Most schedules take
one or two sweeps.
"""

from __future__ import annotations

from collections.abc import Callable, MutableSequence, Sequence
from typing import Any, NamedTuple


class RankWindows(NamedTuple):
    """What one sweep says of each rank, given how long its first step waits. Lists of one entry a rank.

    Attributes
    ----------
    first, last
        Ticks: the start of its first step, the end of its last; both 0 where it has no step.
    origin
        The rank from whose first step, started no later than it had to, a longest path leads to that end; -1 where it
        has no step.
    """

    first: list[int]
    last: list[int]
    origin: list[int]

    @property
    def longest(self) -> int:
        """The ticks of the longest window."""
        return max(end - start for start, end in zip(self.first, self.last, strict=True))


class BatchSpan(NamedTuple):
    """The span, and what it follows from.

    Attributes
    ----------
    ticks
        The span.
    cycle
        Ranks in the order of a cycle of ways whose mean, rounded up, is the span; empty where that is 0.
    ways
        The ticks of the way from each of them to the next, from the last to the first.
    sweeps
        How many sweeps over the steps it took.
    """

    ticks: int
    cycle: tuple[int, ...]
    ways: tuple[int, ...]
    sweeps: int


def span_of(earliest: RankWindows, sweep: Callable[[list[int]], RankWindows]) -> BatchSpan:
    """Return the span of orders.

    Parameters
    ----------
    earliest
        The windows where no first step waits without need.
    sweep
        Returns the windows where, for each rank, the first step starts no earlier than a tick.
    """
    ranks = len(earliest.first)
    release, before, known = [0] * ranks, [-1] * ranks, [-1] * ranks
    origins: list[int] = []
    ways: list[int] = []
    windows, span = earliest, 0
    while True:
        origins += windows.origin
        ways += [
            end - release[rank] if rank >= 0 else 0 for rank, end in zip(windows.origin, windows.last, strict=True)
        ]
        span = settle(origins, ways, len(ways), span, release, before, known)
        if windows.longest <= span:
            return BatchSpan(span, *_told(before, known), len(ways) // ranks)
        windows = sweep(release)


def settle(  # noqa: C901 - compiled code calls no plain function, so it is one
    origins: Sequence[int] | Any,
    ways: Sequence[int] | Any,
    count: int,
    span: int,
    release: MutableSequence[int] | Any,
    before: MutableSequence[int] | Any,
    lengths: MutableSequence[int] | Any,
) -> int:
    """Return the least whole number, at least ``span``, that no cycle of known ways exceeds in the mean.

    It takes lists or arrays of integers, so :mod:`~schedverify.simulator.kernels` has it compiled, to be called in
    compiled loops. With ``span`` 0 and ``count`` 0 to begin with, a loop does for an order:

    1. time it, each first step no earlier than ``release`` of its rank, and carry along for every step the rank whose
       first step starts at that tick and leads to it by a longest path (so a first step that waits for an input takes
       over the origin of that input);
    2. append a row: for each rank that origin of its last step, and the end of that step less ``release`` of the
       origin; -1 and 0 for a rank without steps; ``count`` grows by the number of ranks;
    3. call this; where no rank's window in that timing is longer than what is returned, that is the span.

    Parameters
    ----------
    origins, ways
        Rows of one entry a rank, one row behind another: where the way to that rank begins, and its ticks.
    count
        How many entries there are; what stands behind them is not read.
    span
        What was returned before.
    release
        By rank; the least ticks at which all known ways fit are written into it.
    before, lengths
        By rank; where the span is raised, a cycle that raises it to what is returned is written into them: the rank
        from which the way on the cycle comes, -1 for ranks that are not on it, and the ticks of that way.
    """
    ranks = len(release)
    entry = [-1] * ranks  # by rank, the entry that its release follows from
    for rank in range(ranks):
        release[rank] = 0
    changed = True
    while changed:
        changed = False
        for k in range(count):
            if origins[k] >= 0 and release[origins[k]] + ways[k] - span > release[k % ranks]:
                release[k % ranks] = release[origins[k]] + ways[k] - span
                entry[k % ranks] = k
                changed = True
        # Releases that follow from each other in a circle would rise for ever: the circle is longer than span allows.
        seen = [-1] * ranks
        for start in range(ranks):
            rank = start
            while rank >= 0 and seen[rank] < 0:
                seen[rank] = start
                rank = origins[entry[rank]] if entry[rank] >= 0 else -1
            if rank >= 0 and seen[rank] == start:
                total, steps = 0, 0
                for other in range(ranks):
                    before[other] = -1
                while before[rank] < 0:
                    before[rank], lengths[rank] = origins[entry[rank]], ways[entry[rank]]
                    total += lengths[rank]
                    steps += 1
                    rank = before[rank]
                span = -(-total // steps)
                for other in range(ranks):
                    release[other], entry[other] = 0, -1
                break
    return span


def _told(before: list[int], lengths: list[int]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the ranks of a cycle in its order, from the lowest on, and the ticks from each to the next."""
    cycle = [next((rank for rank, source in enumerate(before) if source >= 0), -1)]
    if cycle[0] < 0:
        return (), ()
    while before[cycle[-1]] != cycle[0]:
        cycle.append(before[cycle[-1]])
    order = [cycle[0], *reversed(cycle[1:])]
    return tuple(order), tuple(lengths[rank] for rank in (*order[1:], order[0]))
