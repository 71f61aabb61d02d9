"""The rows of an SVG: a bar for every step with what is written in it, the marks of violations, or a histogram.

A row with too many steps to draw each shows as heights how much of the time each kind fills.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schedverify.core.op import MICROBATCH_MASK, Join, Kind, Op, Step
from schedverify.drawing.labels import FAULT, candidates, clean, colour
from schedverify.drawing.markup import element, escaped, px
from schedverify.drawing.panel import GROUP, PAIR, Panel, PanelRow
from schedverify.drawing.raster import filled, squeezed

CODE_ROOM: Final = 13.0
"""The pixels above a row that has marks, where the codes of the violations are written."""
_LETTER: Final = 0.6
"""The width of a digit as a share of its height, with a little space beside it."""
_THINNEST_STROKE: Final = 3.0
_SMALLEST: Final = 7.0
_MARKED_MOST: Final = 500


@dataclass(frozen=True)
class Ruler:
    """Converts places (ticks or positions) to pixels.

    Attributes
    ----------
    left
        The pixel at which place 0 lies.
    pixels
        The pixels from place 0 to ``horizon``.
    height
        The height of a bar, in pixels.
    """

    left: float
    pixels: float
    horizon: int
    height: float

    def x(self, place: int) -> float:
        """Return the pixel of a place."""
        return self.left + self.width(place)

    def width(self, length: int) -> float:
        """Return the pixels that a length takes."""
        return length * self.pixels / self.horizon


def bars(panel: Panel, row: PanelRow, ruler: Ruler, top: float) -> Iterator[str]:
    """Yield the bars of a row, a rectangle with a tooltip for each step (two halves for an overlapped pair)."""
    shortest = int((row.ends - row.starts).min(initial=panel.horizon))
    stroke = "sv-b" if ruler.width(shortest) >= _THINNEST_STROKE else "sv-n"
    texts: list[str] = []
    digits = len(str(int((row.words & MICROBATCH_MASK).max(initial=0))))
    yield f'<g class="{stroke}">'
    for position in range(len(row.starts)):
        step = row.step(position)
        places = int(row.starts[position]), int(row.ends[position])
        yield "".join(_rects(panel, row, step, places, ruler, top))
        texts += _texts(panel, row, step, places, ruler, (top, digits))
    yield "</g>"
    if texts:
        yield f'<g class="sv-c">{"".join(texts)}</g>'


def critical(row: PanelRow, ruler: Ruler, top: float) -> Iterator[str]:
    """Yield the line at the foot of every step that is on the critical path."""
    path = ""
    for position in sorted(row.critical):
        start, end = int(row.starts[position]), int(row.ends[position])
        left, width = px(ruler.x(start)), px(ruler.width(end - start))
        path += f"M{left} {px(top + ruler.height - 4)}h{width}v4H{left}z"
    if path:
        yield f'<path class="sv-k" d="{path}"/>'


def marks(panel: Panel, row: PanelRow, ruler: Ruler, top: float) -> Iterator[str]:
    """Yield the outlines of the steps at which something is violated, and above them the codes where there is room."""
    free = 0.0
    for position, numbers in sorted(row.marks.items())[:_MARKED_MOST]:
        if position >= len(row.starts):
            continue
        x = ruler.x(int(row.starts[position]))
        width = max(ruler.width(int(row.ends[position] - row.starts[position])), 2.0)
        text = violation_names(panel, numbers)
        place = f'x="{px(x)}" y="{px(top)}" width="{px(width)}" height="{px(ruler.height)}"'
        yield f'<rect {place} class="sv-o" stroke="{FAULT}"><title>{escaped(text)}</title></rect>'
        if x >= free:
            yield element("text", escaped(text), x=x, y=top - 4, class_="sv-f", font_size=10.0)
            free = x + len(text) * 6.4 + 4


def violation_names(panel: Panel, numbers: tuple[int, ...]) -> str:
    """Return violations by their numbers and codes: ``#1 SV401``."""
    texts = [f"#{number} {clean(panel.violations[number - 1].code, 10)}" for number in numbers[:3]]
    return ", ".join(texts) + (" ..." if len(numbers) > 3 else "")


def _rects(panel: Panel, row: PanelRow, step: Step, places: tuple[int, int], ruler: Ruler, top: float) -> Iterator[str]:
    start, end = places
    title = f"<title>{escaped(f'rank {row.rank}: {step}, {start} to {end}')}</title>"
    width = max(ruler.width(end - start), 0.5)
    for op, y, height in _parts(step, top, ruler.height):
        fill = colour(op.kind, row.chunk(op.stage), panel.chunks)
        place = f'x="{px(ruler.x(start))}" y="{px(y)}" width="{px(width)}" height="{px(height)}"'
        yield f'<rect {place} fill="{fill}">{title}</rect>'


def _texts(
    panel: Panel, row: PanelRow, step: Step, places: tuple[int, int], ruler: Ruler, layout: tuple[float, int]
) -> Iterator[str]:
    """Yield the texts in a bar as elements; numbers have the same size in all bars of the same length."""
    top, digits = layout
    x = px((ruler.x(places[0]) + ruler.x(places[1])) / 2)
    room = ruler.width(places[1] - places[0]) - 2
    for op, y, height in _parts(step, top, ruler.height):
        for text in _choices(panel, row, step, op):
            size = min(12.0, height * 0.75, room / (max(len(text), digits) * _LETTER))
            if text and size >= _SMALLEST:
                base = px(y + height / 2 + size * 0.36)
                yield f'<text x="{x}" y="{base}" font-size="{px(size)}">{escaped(text)}</text>'
                break


def _choices(panel: Panel, row: PanelRow, step: Step, op: Op) -> list[str]:
    """Return the texts that may be written into a part of a bar: the micro-batch; without times, the operation."""
    if step.join is Join.GROUP:
        return candidates(step, stage=False)
    if panel.timed:
        return ["" if op.microbatch is None else str(op.microbatch)]
    return candidates(Step((op,)), stage=panel.chunks > 1 or op.stage not in row.chunks)


def _parts(step: Step, top: float, height: float) -> list[tuple[Op, float, float]]:
    """Return the parts of a step's bar: the operation that each shows, and its top and height in pixels."""
    if step.join is not Join.OVERLAP:
        return [(step.ops[0], top, height)]
    part = height / len(step.ops)
    return [(op, top + i * part, part) for i, op in enumerate(step.ops)]


_MOST_CELLS: Final = 480
_MOST_POINTS: Final = 60_000
"""The most cells of all rows together."""

_JOINED: Final = {PAIR: (Kind.F, "overlapped F and B"), GROUP: (Kind.SEND_F, "communications launched together")}


def histogram(panel: Panel, row: PanelRow, ruler: Ruler, top: float) -> Iterator[str]:
    """Yield an area for each kind, whose height in a cell is the share of the cell's time that the kind fills."""
    cells = min(_MOST_CELLS, max(_MOST_POINTS // len(panel.rows), 100), panel.horizon)
    edges = squeezed(panel.horizon, cells).edges
    base = np.zeros(cells)
    for number, ticks in filled(row, edges).items():
        upper = base + ticks / np.diff(edges)
        kind, name = _JOINED.get(number) or (Kind(number), Kind(number).name)
        path = _outline(edges, base, upper, ruler, top)
        yield element("path", element("title", f"rank {row.rank}: {name}"), d=path, fill=colour(kind))
        base = upper


def _outline(
    edges: NDArray[np.int64], lower: NDArray[np.float64], upper: NDArray[np.float64], ruler: Ruler, top: float
) -> str:
    """Return the outline of an area as an SVG path: along its upper side, and back along its lower side.

    Parameters
    ----------
    edges
        The borders of the cells in places, shape (cells + 1,).
    lower, upper
        The height of both sides in each cell, as a share of the row's height, shape (cells,).
    """
    upper_side = zip(edges[1:].tolist(), upper.tolist(), strict=True)
    lower_side = zip(edges[-2::-1].tolist(), lower[::-1].tolist(), strict=True)
    path = drawn = reached = ""
    for edge, share in (*upper_side, *lower_side):
        y = px(top + ruler.height * (1 - share))
        if not path:
            path = f"M{px(ruler.left)} {y}"
        elif y != drawn:
            path += f"H{reached}V{y}"
        drawn, reached = y, px(ruler.x(edge))
    return f"{path}H{reached}z"
