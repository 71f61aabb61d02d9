"""The captions of a picture, in letters and in SVG alike: a time axis, the meaning of colours, and the measures.

The axis has round numbers at even distances, in a unit that keeps them short.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count
from typing import Final, NamedTuple

from schedverify.core.op import Kind
from schedverify.drawing.labels import GROUP_LETTER, IDLE, MEANINGS, PAIR_LETTER, clean, letter, number, percent, plural
from schedverify.drawing.panel import GROUP, PAIR, Panel

_SECONDS: Final = ("ns", "us", "ms", "s")
_SUFFIXES: Final = {1000**power: suffix for power, suffix in enumerate(("", "k", "M", "G", "T", "P"))}


class Axis(NamedTuple):
    """A time axis: its marks, each a pair of a tick and its label, and the unit of the labels."""

    marks: tuple[tuple[int, str], ...]
    unit: str


def axis(horizon: int, unit: str, most: int) -> Axis:
    """Return at most ``most`` + 1 marks from 0 to ``horizon``, at a distance of 1, 2 or 5 times a power of ten.

    Parameters
    ----------
    unit
        The problem's ``tick``. If it is ns, us or ms, the labels use a coarser unit of these where that is exact.
    """
    step = _step(horizon, max(most, 1))
    scale, shown = _scaled(step, unit)
    suffix = _SUFFIXES[scale] if shown == unit else ""
    marks = range(0, horizon + 1, step)
    return Axis(tuple((mark, f"{mark // scale}{suffix if mark else ''}") for mark in marks), plural(shown))


def _step(horizon: int, most: int) -> int:
    steps: Iterator[int] = (factor * 10**power for power in count() for factor in (1, 2, 5))
    return next(step for step in steps if step * most >= horizon)


def _scaled(step: int, unit: str) -> tuple[int, str]:
    scale = 1
    known = unit in _SECONDS
    while step % (1000 * scale) == 0 and 1000 * scale in _SUFFIXES and (not known or unit != "s"):
        scale *= 1000
        unit = _SECONDS[_SECONDS.index(unit) + 1] if known else unit
    return scale, unit


class Entry(NamedTuple):
    """One line of a legend: a kind, its letter and its meaning; idle time and overlapped pairs have no kind (None)."""

    kind: Kind | None
    letter: str
    meaning: str


def legend(panels: Sequence[Panel]) -> list[Entry]:
    """Return an entry for each kind that the panels show, and one for idle time."""
    used = frozenset[int]().union(*(panel.used for panel in panels))
    kinds = [Kind(number) for number in sorted(used - {PAIR, GROUP})]
    entries = [Entry(kind, letter(kind), MEANINGS[kind]) for kind in kinds]
    if PAIR in used:
        entries.append(Entry(Kind.F, PAIR_LETTER, "overlapped F and B"))
    if GROUP in used:
        entries.append(Entry(Kind.SEND_F, GROUP_LETTER, "communications launched together"))
    return [*entries, Entry(None, IDLE, "idle")] if any(panel.timed for panel in panels) else entries


def figures(panel: Panel) -> list[tuple[str, ...]]:
    """Return the table beside the rows: its headings, then the figures of each shown rank; empty without a timeline."""
    measures = panel.measures
    if measures is None:
        return []
    peaks = [measures.peak_memory[row.rank] for row in panel.rows]
    told, unit = panel.units.sizes(peaks)
    sizes = told if panel.units.unit and unit != "B" else list(map(number, peaks))
    rows = [(number(measures.peak_in_flight[row.rank]), size) for row, size in zip(panel.rows, sizes, strict=True)]
    return [("in flight", f"{unit} held" if panel.units.unit else "memory"), *rows]


def sentence(panel: Panel) -> str:
    """Return the measures of a timeline in one line; empty without one."""
    measures = panel.measures
    if measures is None:
        return ""
    time = panel.units.time
    times = f"makespan {time(measures.makespan)}, span {time(measures.span)}"
    if panel.window > measures.span:
        times += f" (as drawn up to {time(panel.window)}: first steps do not wait)"
    bubble = f"bubble {percent(measures.bubble_fraction)}"
    if measures.span_bubble != measures.bubble_fraction:
        bubble += f", span bubble {percent(measures.span_bubble)}"
    peaks = f"peak in flight {max(measures.peak_in_flight)}, peak memory {panel.units.size(max(measures.peak_memory))}"
    return clean(f"{times}, {bubble}, {peaks}")
