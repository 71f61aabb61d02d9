"""The least span of a tiny problem over every order of every rank; see :mod:`brute_force` for the search itself.

The span of an order is the largest mean, over cycles of ranks, of the longest ways from the first step of one rank to
the end of the last step of the next, rounded up. So the numbers of a state are ways: for each rank that has begun, the
longest one from the start of its first step to each step that is not done (as far as what is done says), and to the end
of each rank that has ended. Every later way is a maximum of sums of these, and so is every mean: of two states with the
same operations done, one whose ways are nowhere longer comes to no greater span, whatever follows.

Under a limit on the makespan one more source counts, tick 0 of every rank: its ways are the times of the earliest
timeline, and what ends behind the limit is dropped.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import permutations
from operator import le

from oracle.brute_force_moves import FIRST, Move, Moves
from oracle.law import Op

Ways = tuple[int, ...]
"""From one source, the way to each place; :data:`NONE` where there is none."""

Trace = tuple[Op, "Trace"] | None
"""The operations of a state, the last one first."""

State = tuple[tuple[Ways, ...], Trace]
NONE = -(1 << 40)


def least_span(moves: Moves, limit: int | None = None) -> tuple[int | None, Trace]:
    """Return the least span of the orders that keep the limits, and the operations of one that has it."""
    best: tuple[int | None, Trace] = (None, None)
    for ways, trace in _ended(moves, limit):
        span = largest_mean([row[FIRST : FIRST + moves.law.ranks] for row in ways[: moves.law.ranks]])
        if best[0] is None or span < best[0]:
            best = span, trace
    return best


def largest_mean(ways: Sequence[Sequence[int]]) -> int:
    """Return the largest mean of a cycle of ranks, rounded up: ``ways[r][s]`` leads from r to the end of s."""
    means = [0]
    for length in range(1, len(ways) + 1):
        for cycle in permutations(range(len(ways)), length):
            steps = [ways[cycle[k - 1]][rank] for k, rank in enumerate(cycle)]
            if NONE not in steps:
                means.append(-(-sum(steps) // length))
    return max(means)


def _ended(moves: Moves, limit: int | None) -> Iterator[State]:
    width = moves.first_place + len(moves.place)
    nothing = (NONE,) * width
    first: list[Ways] = [nothing] * moves.law.ranks + ([(0,) * width] if limit is not None else [])
    layer: dict[int, list[State]] = {0: [(tuple(first), None)]}
    while layer:
        following: dict[int, list[State]] = {}
        for done, states in layer.items():
            if moves.all_done(done):
                yield from states
            for move in moves.from_set(done):
                for ways, trace in states:
                    after = tuple(_run(move, row, FIRST + rank in move.begun) for rank, row in enumerate(ways))
                    if limit is None or max(after[-1][place] for place in _places(moves)) <= limit:
                        _keep(following.setdefault(move.done, []), (after, (move.op, trace)))
        layer = following


def _places(moves: Moves) -> range:
    return range(FIRST, moves.first_place + len(moves.place))


def _run(move: Move, ways: Ways, begins: bool) -> Ways:
    """Return the ways from one source once an operation is appended; whether it is the first of the source's rank."""
    start = max(ways[move.start], 0) if begins else ways[move.start]
    if start == NONE:
        return ways
    after, end = list(ways), start + move.cost
    for place in move.cleared:
        after[place] = NONE
    for place in move.busy:
        after[place] = max(after[place], end)
    for place, lag in move.fed:
        after[place] = max(after[place], end + lag)
    for place in move.ended:
        after[place] = end
    return tuple(after)


def _keep(front: list[State], state: State) -> None:
    """Add a state to those with the same set, unless one is nowhere greater; drop those that are nowhere smaller."""
    if any(_no_longer(other, state[0]) for other, _ in front):
        return
    front[:] = [kept for kept in front if not _no_longer(state[0], kept[0])]
    front.append(state)


def _no_longer(one: tuple[Ways, ...], other: tuple[Ways, ...]) -> bool:
    return all(all(map(le, *rows)) for rows in zip(one, other, strict=True))
