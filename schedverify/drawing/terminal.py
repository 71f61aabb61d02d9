"""A picture as letters: a row for each rank, a cell for a stretch of time, as wide as the terminal."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Sequence
from enum import Enum
from typing import Final

from schedverify.core.errors import printable
from schedverify.drawing.captions import axis, figures, legend, sentence
from schedverify.drawing.labels import FAULT, IDLE, INK, clean, colour
from schedverify.drawing.panel import Panel, PanelRow
from schedverify.drawing.raster import EMPTY, CellRun, Scale, runs
from schedverify.drawing.terminal_cells import CellTexts, half_blocks, shared_scale

Line = list[tuple[str, str]]
"""Pieces of text, each with its style in the words of rich; an empty style is plain."""


class Paint(Enum):
    """The styles that a terminal can show beside plain letters."""

    NONE = "letters"
    COLOURS = "letters on colours"
    BLOCKS = "letters and half blocks on colours"


NARROWEST: Final = 40
MOST_LISTED: Final = 20
_FIGURES_FROM: Final = 60
_DIM: Final = "dim"
_FAULT: Final = f"bold white on {FAULT}"
_SEEN: Final = f"bold {FAULT}"


def picture_lines(panels: Sequence[Panel], title: str, width: int, paint: Paint) -> Iterator[Line]:
    """Yield the lines of a picture, none longer than ``width`` (at least :data:`NARROWEST`).

    ``paint`` says which styles are shown; without colours, letters show the length of each step.
    """
    width = max(width, NARROWEST)
    if title:
        yield from _wrapped(clean(title), width, "bold")
        yield []
    for panel in panels:
        family = [other for other in panels if (other.timed, other.unit) == (panel.timed, panel.unit)]
        yield from _PanelText(panel, family, width, paint).lines()
        if panel is not panels[-1]:
            yield []
    yield from _legend(panels, width, paint is not Paint.NONE)


class _PanelText:
    """One panel that is made into lines: the widths of its columns, and the texts of its cells."""

    def __init__(self, panel: Panel, family: Sequence[Panel], width: int, paint: Paint) -> None:
        self.panel, self.width = panel, width
        self.painted = paint is not Paint.NONE
        self.horizon = max(other.horizon for other in family)
        self.margin = max(len(f"rank {panel.rows[-1].rank}"), len(axis(self.horizon, panel.unit, 1).unit)) + 2
        self.aside = _columns(figures(panel)) if width >= _FIGURES_FROM else []
        room = width - self.margin
        self.scale = shared_scale(family, room)
        if self.aside:
            narrow = shared_scale(family, room - len(self.aside[0]))
            self.aside = self.aside if narrow.fine == self.scale.fine else []
            self.scale = narrow if self.aside else self.scale
        self.blocks = [runs(row, self.scale) for row in panel.rows]
        self.texts = CellTexts(panel, self.blocks)
        crowded = self.scale.squeezed and bool(self.texts.unnumbered)
        self.in_half_blocks = paint is Paint.BLOCKS and crowded and 2 * self.scale.cells <= self.horizon

    def lines(self) -> Iterator[Line]:
        panel = self.panel
        yield from _wrapped(clean(panel.title), self.width, "bold")
        yield [(self._axis() + (self.aside[0] if self.aside else ""), _DIM)]
        for index, row in enumerate(panel.rows):
            yield from self._row(row, self.blocks[index], self.aside[index + 1] if self.aside else "")
        if panel.hidden:
            yield [(f"and {panel.hidden} more ranks", _DIM)]
        if panel.steps > len(panel.rows) * self.scale.cells:
            yield from _wrapped("there are more steps than cells: each shows what fills most of it", self.width, _DIM)
        yield from _wrapped(sentence(panel), self.width)
        if not self.aside:
            for head, *column in zip(*figures(panel), strict=True):
                yield from _wrapped(f"{head} by rank: {' '.join(column)}", self.width)
        for remark in panel.remarks:
            yield from _wrapped(f"remark: {clean(remark)}", self.width, _DIM)
        yield from self._violations()

    def _axis(self) -> str:
        cells = self.scale.cells
        marks, unit = axis(self.horizon, self.panel.unit, max(cells // 8, 1))
        text = ""
        for tick, label in marks:
            column = self.scale.column(tick)
            if (not text or len(text) < column) and column + len(label) <= cells:
                text = text.ljust(column) + label
        return unit.ljust(self.margin) + text.ljust(cells)

    def _row(self, row: PanelRow, blocks: Sequence[CellRun], aside: str) -> Iterator[Line]:
        name = f"rank {row.rank}"
        outside = self.panel.faults.get(row.rank, ())
        line: Line = [(name, _SEEN if outside else ""), (" " * (self.margin - len(name)), "")]
        if self.in_half_blocks:
            line += half_blocks(self.panel, row, self.scale)
        else:
            line += [self._block(row, run) for run in blocks]
        yield [*line, (aside, "")]
        notes = _notes(row, blocks, self.scale)
        if notes or outside:
            lead = f"^{_numbers(outside)}" if outside else ""
            yield [(lead[: self.margin].ljust(self.margin) + notes, _SEEN)]

    def _block(self, row: PanelRow, run: CellRun) -> tuple[str, str]:
        cells = run.last - run.first
        if run.position == EMPTY:
            end = self.scale.column(self.panel.horizon - 1) + 1
            inside = min(max(end - run.first, 0), cells) if self.panel.timed else 0
            return IDLE * inside + " " * (cells - inside), _DIM
        text = self.texts.text(row, run, "-" if self.panel.timed and not self.painted else " ")
        if run.position in row.marks:
            return text, _FAULT
        op = row.step(run.position).ops[0]
        return text, f"{INK} on {colour(op.kind, row.chunk(op.stage), self.panel.chunks)}"

    def _violations(self) -> Iterator[Line]:
        violations = self.panel.violations
        for count, violation in enumerate(violations[:MOST_LISTED], 1):
            text = f"^{count} {clean(violation.code)} {clean(violation.message, 2000)}"
            yield from _wrapped(text, self.width, _SEEN, " " * (len(str(count)) + 2))
        if (rest := self.panel.violation_count - len(violations[:MOST_LISTED])) > 0:
            yield [(f"and {rest} more violations", _SEEN)]


def _legend(panels: Sequence[Panel], width: int, painted: bool) -> Iterator[Line]:
    line: Line = []
    length = 0
    for kind, letter, meaning in legend(panels):
        text = f" {letter} " if painted else letter
        if line and length + len(text + meaning) + 4 > width:
            yield line
            line, length = [], 0
        line += [(text, _DIM if kind is None else f"{INK} on {colour(kind)}"), (f" {meaning}   ", "")]
        length += len(text + meaning) + 4
    yield line
    if any(panel.chunks > 1 for panel in panels):
        yield from _wrapped("paler: later stages of a rank; small letters: every second of them", width, _DIM)


def _columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return the rows of a table as lines of equal length; columns are aligned to the right, behind two blanks each."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["".join(f"  {text:>{width}}" for text, width in zip(row, widths, strict=True)) for row in rows]


def _notes(row: PanelRow, blocks: Sequence[CellRun], scale: Scale) -> str:
    """Return the line under a row that points at its violations by number."""
    columns = {run.position: run.first for run in blocks}
    text = ""
    for position, numbers in sorted(row.marks.items()):
        if position >= len(row.starts):
            continue
        column = columns.get(position, scale.column(int(row.starts[position])))
        if column >= len(text):
            text = text.ljust(column) + f"^{_numbers(numbers)}"
    return text[: scale.cells]


def _numbers(numbers: Sequence[int]) -> str:
    return ",".join(map(str, numbers[:3])) + ("+" if len(numbers) > 3 else "")


def _wrapped(text: str, width: int, style: str = "", indent: str = "") -> Iterator[Line]:
    for line in textwrap.wrap(text, width, subsequent_indent=indent, break_on_hyphens=False):
        yield [(printable(line), style)]
