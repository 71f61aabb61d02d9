"""Offsets that bring the clocks of ranks together, from the messages between them: none ends before it began.

A message that rank a sent at ``s`` by its clock and rank b had at ``e`` by its own says that b's offset is at least
``s - e`` more than a's. Messages both ways bound the difference from both sides, and bounds along several ranks add up:
shortest ways over these bounds give each rank the least and the most that its offset to rank 0 can be. The middle of
both is an offset for every rank at once, since what keeps all bounds is convex.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

Least = Mapping[tuple[int, int], int]
"""By two ranks ``(a, b)``, the least nanoseconds by which the offset of ``b`` exceeds that of ``a``."""


@dataclass(frozen=True)
class Offsets:
    """What is added to the times of each rank.

    Attributes
    ----------
    added
        Nanoseconds by rank; 0 for rank 0.
    errors
        By rank, how far the offset may be wrong; None where no message bounds it from both sides.
    """

    added: tuple[int, ...]
    errors: tuple[int | None, ...]


class _NoOffsetsError(Exception):
    """No offsets keep all the bounds."""


def offsets(least: Least, hosts: Sequence[str]) -> Offsets | None:
    """Return offsets that keep all bounds, or None where there are none.

    Ranks of one host have one clock, unless messages say otherwise. Clocks that contradict no message stay as they are.

    Parameters
    ----------
    hosts
        By rank, the name of its host; empty where it is not known.
    """
    same = [(a, b) for a, b in pairwise(sorted(range(len(hosts)), key=lambda r: (hosts[r], r))) if hosts[a] == hosts[b]]
    shared = {pair: 0 for a, b in same if hosts[a] for pair in ((a, b), (b, a))}
    for bounds in ({pair: max(least.get(pair, 0), shared.get(pair, least.get(pair, 0))) for pair in {*least, *shared}},
                   least):  # fmt: skip
        try:
            return _middle(bounds, len(hosts))
        except _NoOffsetsError:
            continue
    return None


def _middle(least: Least, ranks: int) -> Offsets:
    low, high = _farthest(least, ranks, 1), _farthest({(b, a): by for (a, b), by in least.items()}, ranks, -1)
    fits = all(by <= 0 for by in least.values())
    added, errors = [], []
    for lowest, highest in zip(low, high, strict=True):
        known = [bound for bound in (lowest, highest) if bound is not None]
        offset = 0 if fits or not known else sum(known) // len(known)
        added.append(offset)
        errors.append(None if None in (lowest, highest) else max(abs(bound - offset) for bound in known))
    return Offsets(tuple(added), tuple(errors))


def _farthest(least: Least, ranks: int, sign: int) -> list[int | None]:
    """Return by rank the tightest bound of its offset to rank 0, along all ways; None where none leads to it."""
    found: list[int | None] = [0] + [None] * (ranks - 1)
    for _ in range(ranks + 1):
        changed = False
        for (a, b), by in least.items():
            before, now = found[a], found[b]
            if before is not None and (now is None or before + by > now):
                found[b], changed = before + by, True
        if not changed:
            return [None if bound is None else sign * bound for bound in found]
    raise _NoOffsetsError
