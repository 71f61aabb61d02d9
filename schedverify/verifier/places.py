"""Where something stands in the orders of ranks, as lines of text: the steps around it, with a mark below."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Final

from schedverify.core.errors import printable
from schedverify.core.schedule import Schedule, step_bounds

MOST_RANKS: Final = 8
"""Places of one picture; a cycle can have thousands."""
_BEFORE: Final = 4
_BEHIND: Final = 4
_LONGEST: Final = 32
"""Letters of a step: a group of communications can have thousands."""
_WIDTH: Final = 90
"""Letters of all steps that are shown: a line that wraps takes the mark from its step."""


def picture_of_places(schedule: Schedule, places: Iterable[tuple[int, int, str]]) -> tuple[str, ...]:
    """Return for each place two lines: the steps around it in its rank's order, and a mark below with its note.

    Parameters
    ----------
    places
        Rank, position, and what is said of the step there; a place that the schedule does not have is left out.
    """
    found = [place for place in islice(places, MOST_RANKS + 1) if _stands(schedule, *place[:2])]
    width = max((len(f"rank {rank}") for rank, _, _ in found), default=0)
    lines = [line for place in found[:MOST_RANKS] for line in _marked(schedule, *place, width)]
    return (*lines, "...") if len(found) > MOST_RANKS else tuple(lines)


def _stands(schedule: Schedule, rank: int, position: int) -> bool:
    return 0 <= rank < schedule.ranks and 0 <= position < len(step_bounds(schedule.rows[rank])) - 1


def _marked(schedule: Schedule, rank: int, position: int, note: str, width: int) -> Iterator[str]:
    """Yield the steps around a place, and the mark below them."""
    row = schedule.rows[rank]
    bounds = step_bounds(row)
    first, end = max(position - _BEFORE, 0), min(position + _BEHIND + 1, len(bounds) - 1)
    texts = [_short(step) for step in Schedule([row[bounds[first] : bounds[end]]]).strings()[0]]
    while len(" ".join(texts)) > _WIDTH:
        left = position - first > end - 1 - position
        del texts[0 if left else -1]
        first, end = first + left, end - (not left)
    begin = f"{f'rank {rank}'.ljust(width)}  {'... ' if first else ''}"
    before = sum(len(text) + 1 for text in texts[: position - first])
    yield begin + " ".join(texts) + (" ..." if end < len(bounds) - 1 else "")
    yield f"{' ' * (len(begin) + before)}{'^' * len(texts[position - first])} {note}".rstrip()


def _short(step: str) -> str:
    text = printable(step)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."
