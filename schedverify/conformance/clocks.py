"""Offsets that bring the clocks of ranks together, from the messages between them: none ends before it began.

A message that rank a sent at ``s`` by its clock and rank b had at ``e`` by its own says that b's offset is at least
``s - e`` more than a's. Messages both ways bound the difference from both sides, and bounds along several ranks add up:
shortest ways over these bounds give each rank the least and the most that its offset to rank 0 can be. The middle of
both is an offset for every rank at once, since what keeps all bounds is convex; where messages go one way only, the one
bound that is known is.
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
    _farthest(least, [0] * ranks)  # wherever a contradiction stands, also where no way from rank 0 leads
    from_first: list[int | None] = [0] + [None] * (ranks - 1)
    low = _farthest(least, from_first)
    back = _farthest({(b, a): by for (a, b), by in least.items()}, from_first)
    high = [None if bound is None else -bound for bound in back]
    fits = all(by <= 0 for by in least.values())
    one_side = low if None in high and None not in low else high if None in low and None not in high else None
    added, errors = [], []
    for rank, bounds in enumerate(zip(low, high, strict=True)):
        known = [bound for bound in ([one_side[rank]] if one_side else bounds) if bound is not None]
        offset = 0 if fits or not known else sum(known) // len(known)
        added.append(offset)
        sides = [abs(bound - offset) for bound in bounds if bound is not None]
        errors.append(max(sides) if len(sides) == len(bounds) else None)
    return Offsets(tuple(added), tuple(errors))


def _farthest(least: Least, begin: Sequence[int | None]) -> list[int | None]:
    """Return by rank the tightest bound of its offset along all ways from those where ``begin`` knows it.

    None where no way leads. Raises where a way around adds up to more than nothing.
    """
    found = list(begin)
    for _ in range(len(begin) + 1):
        changed = False
        for (a, b), by in least.items():
            before, now = found[a], found[b]
            if before is not None and (now is None or before + by > now):
                found[b], changed = before + by, True
        if not changed:
            return found
    raise _NoOffsetsError
