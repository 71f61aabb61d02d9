"""A picture as SVG: panels below each other, each with its rows, axis, figures and violations; one legend."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from fractions import Fraction
from typing import Final

import numpy as np

from schedverify.core.op import Kind
from schedverify.drawing.captions import axis, figures, legend, sentence
from schedverify.drawing.labels import INK, PAIR_LETTER, clean, colour, percent
from schedverify.drawing.markup import box_at, element, escaped, px
from schedverify.drawing.panel import Panel
from schedverify.drawing.svg_rows import CODE_ROOM, Ruler, bars, critical, histogram, marks, violation_names

MOST_BARS: Final = 20_000
"""The most steps that are drawn one by one."""
MOST_LISTED: Final = 50
_PAD: Final = 20.0
_LEFT: Final = 84.0
_FIGURE: Final = 68.0
_NARROWEST: Final = 480.0
_WIDEST: Final = 960.0
_LONGEST: Final = 1600.0
_STEP: Final = 30.0
_LINE: Final = 18.0
_LETTER: Final = 6.3
"""The width of a letter of the small text in pixels, at most, on average over a text."""
_BOLD: Final = 7.2
_STYLE: Final = (
    ".sv{font-family:system-ui,-apple-system,'Segoe UI',Helvetica,Arial,'DejaVu Sans',sans-serif;font-size:12px}"
    ".sv text{fill:#1f2328}.sv .sv-h{font-size:15px;font-weight:600}.sv .sv-m{fill:#59636e}"
    f".sv .sv-c text{{fill:{INK};text-anchor:middle;pointer-events:none}}"
    ".sv .sv-f{fill:#b3121f;font-weight:600}.sv .sv-o{fill:none;stroke-width:2.5}"
    ".sv .sv-k{fill:#000}.sv-p{fill:#fff}.sv-l{fill:#e9edf1}"
    ".sv-g{stroke:#c4ccd4;stroke-width:1}.sv-b{stroke:#fff;stroke-width:1}"
    "@media (prefers-color-scheme:dark){.sv text{fill:#e6edf3}.sv .sv-m{fill:#9198a1}.sv .sv-f{fill:#ff8182}"
    ".sv-p{fill:#0d1117}.sv-l{fill:#262c34}.sv-g{stroke:#3d444d}.sv-b{stroke:#0d1117}}"
)


def svg_document(panels: Sequence[Panel], title: str) -> str:
    """Return an SVG document of several panels; those that count in the same unit share a scale."""
    return _SvgDocument(panels, title).text()


class _SvgDocument:
    """An SVG document that is being made: the elements so far, and the height in pixels that they reach down to."""

    def __init__(self, panels: Sequence[Panel], title: str) -> None:
        self.panels, self.title = panels, title
        self.parts: list[str] = []
        self.y = _PAD
        self.plot = max(map(_breadth, panels))
        aside = 3 * _FIGURE + 8 if any(panel.measures for panel in panels) else 0.0
        self.width = _LEFT + self.plot + aside + _PAD
        self.thinned = sum(panel.steps for panel in panels) > MOST_BARS
        rows = sum(len(panel.rows) for panel in panels)
        self.height, self.gap = (28.0, 6.0) if rows <= 32 else (18.0, 3.0)

    def text(self) -> str:
        """Return the whole document."""
        if self.title:
            self._heading(self.title)
            self.y += 4
        for index, panel in enumerate(self.panels):
            self._panel(panel, last=index + 1 == len(self.panels) or not _alike(panel, self.panels[index + 1]))
            self.y += 14
        self._legend()
        height = px(self.y + _PAD - 8)
        label = escaped(clean(self.title or self.panels[0].title))
        head = f'<svg xmlns="http://www.w3.org/2000/svg" class="sv" width="{px(self.width)}" height="{height}" '
        head += f'viewBox="0 0 {px(self.width)} {height}" role="img" aria-label="{label}">'
        page = f'<rect class="sv-p" width="{px(self.width)}" height="{height}" rx="8"/>'
        return "\n".join([head, f"<style>{_STYLE}</style>", page, *self.parts, "</svg>", ""])

    def _panel(self, panel: Panel, last: bool) -> None:
        horizon = max(other.horizon for other in self.panels if _alike(other, panel))
        ruler = Ruler(_LEFT, self.plot, horizon, self.height)
        self._heading(panel.title)
        self._small(sentence(panel))
        self._heads(panel)
        tops = self._tops(panel)
        self._lanes(panel, ruler, tops)
        self._axis(panel, ruler, tops, last)
        for row, top in zip(panel.rows, tops, strict=True):
            self.parts += histogram(panel, row, ruler, top) if self.thinned else bars(panel, row, ruler, top)
            self.parts += critical(row, ruler, top)
            self.parts += marks(panel, row, ruler, top)
        self._remarks(panel)

    def _heading(self, text: str) -> None:
        for line in textwrap.wrap(clean(text), int((self.width - 2 * _PAD) / 8)):
            self.y += 14
            self.parts.append(element("text", escaped(line), x=_PAD, y=self.y, class_="sv-h"))
            self.y += 6

    def _small(self, text: str, style: str = "sv-m") -> None:
        letter = _LETTER if style == "sv-m" else _BOLD
        for line in textwrap.wrap(text, int((self.width - 2 * _PAD) / letter), break_on_hyphens=False):
            self.y += 12
            self.parts.append(element("text", escaped(line), x=_PAD, y=self.y, class_=style))
            self.y += _LINE - 12

    def _heads(self, panel: Panel) -> None:
        self.y += 16 if panel.measures else 6
        for i, head in enumerate(_table(panel)[0] if panel.measures else ()):
            x = _LEFT + self.plot + (i + 1) * _FIGURE
            self.parts.append(element("text", head, x=x, y=self.y - 4, class_="sv-m", text_anchor="end"))

    def _tops(self, panel: Panel) -> list[float]:
        tops = []
        for row in panel.rows:
            self.y += CODE_ROOM if row.marks else 0
            tops.append(self.y)
            self.y += self.height + self.gap
        return tops

    def _lanes(self, panel: Panel, ruler: Ruler, tops: Sequence[float]) -> None:
        table = _table(panel)[1:] or [()] * len(tops)
        for row, top, cells in zip(panel.rows, tops, table, strict=True):
            middle = top + self.height / 2 + 4
            outside = panel.faults.get(row.rank, ())
            y = middle - 6 if outside else middle
            self.parts.append(element("text", f"rank {row.rank}", x=_PAD, y=y))
            if outside:
                text = escaped(violation_names(panel, outside[:1]))
                self.parts.append(element("text", text, x=_PAD, y=middle + 7, class_="sv-f", font_size=10.0))
            end = panel.horizon if panel.timed else len(row.starts)
            self.parts.append(box_at(_LEFT, top, ruler.width(end), self.height, ""))
            for i, cell in enumerate(cells):
                x = _LEFT + self.plot + (i + 1) * _FIGURE
                self.parts.append(element("text", cell, x=x, y=middle, text_anchor="end"))

    def _axis(self, panel: Panel, ruler: Ruler, tops: Sequence[float], labelled: bool) -> None:
        found, unit = axis(ruler.horizon, panel.unit, max(int(self.plot / 70), 1))
        bottom = tops[-1] + self.height + 3
        if panel.timed:
            for tick, _ in found:
                self.parts.append(f'<path class="sv-g" d="M{px(ruler.x(tick))} {px(tops[0] - 3)}V{px(bottom)}"/>')
        if labelled:
            self.parts.append(element("text", escaped(unit), x=_PAD, y=bottom + 13, class_="sv-m"))
            for tick, label in found if panel.timed else [mark for mark in found if mark[0] < ruler.horizon]:
                x = ruler.x(tick) if panel.timed else ruler.x(tick) + ruler.width(1) / 2
                self.parts.append(element("text", label, x=x, y=bottom + 13, class_="sv-m", text_anchor="middle"))
            self.y = bottom + 22

    def _remarks(self, panel: Panel) -> None:
        if panel.hidden:
            self._small(f"and {panel.hidden} more ranks")
        for remark in panel.remarks:
            self._small(clean(remark))
        if self.thinned:
            self._small(f"{panel.steps:,} steps are too many to draw one by one: heights are shares of the time")
        if panel.violations:
            self.y += 4
        for count, violation in enumerate(panel.violations[:MOST_LISTED], 1):
            self._small(f"#{count} {clean(violation.code)} {clean(violation.message, 2000)}", "sv-f")
        if (rest := panel.violation_count - len(panel.violations[:MOST_LISTED])) > 0:
            self._small(f"and {rest} more violations", "sv-f")

    def _legend(self) -> None:
        chunks = max(panel.chunks for panel in self.panels)
        x = _PAD
        for kind, letters, meaning in legend(self.panels):
            boxes = _boxes(kind, letters, min(chunks, 4))
            room = max(box[0] + box[2] for box in boxes) + 6
            length = room + len(meaning) * _LETTER + 20
            if x > _PAD and x + length > self.width - _PAD:
                x, self.y = _PAD, self.y + _LINE
            for left, top, width, height, fill in boxes:
                self.parts.append(box_at(x + left, self.y + top, width, height, fill))
            self.parts.append(element("text", escaped(meaning), x=x + room, y=self.y + 10, class_="sv-m"))
            x += length
        self.y += _LINE
        if chunks > 1:
            self._small("paler: later stages of the rank")
        if any(row.critical for panel in self.panels for row in panel.rows):
            self._small("black line: the critical path")


def _alike(panel: Panel, other: Panel) -> bool:
    return (panel.timed, panel.unit) == (other.timed, other.unit)


def _boxes(kind: Kind | None, letters: str, chunks: int) -> list[tuple[float, float, float, float, str]]:
    """Return the boxes of a legend's entry, each as left, top, width, height in pixels and colour (empty for idle)."""
    if kind is None:
        return [(0, 0, 14, 12, "")]
    if letters == PAIR_LETTER:
        return [(0, 0, 14, 6, colour(Kind.F)), (0, 6, 14, 6, colour(Kind.B))]
    shades = chunks if kind.is_compute else 1
    return [(14 * shade, 0, 14, 12, colour(kind, shade, shades)) for shade in range(shades)]


def _breadth(panel: Panel) -> float:
    """Return the width of the rows in pixels: a step of median length has room for a number, within bounds."""
    lengths = np.concatenate([row.ends - row.starts for row in panel.rows])
    middle = max(int(np.median(lengths)), 1) if len(lengths) else 1
    return min(max(panel.horizon / middle * _STEP, _NARROWEST), _WIDEST if panel.timed else _LONGEST)


def _table(panel: Panel) -> list[tuple[str, ...]]:
    """Return the table of figures beside the rows: its headings, then one row for each rank, idle time first."""
    table, measures = figures(panel), panel.measures
    if measures is None:
        return []
    shares = [1 - Fraction(measures.work[row.rank], max(measures.makespan, 1)) for row in panel.rows]
    return [(first, *rest) for first, rest in zip(["idle", *map(percent, shares)], table, strict=True)]
