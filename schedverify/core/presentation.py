"""How values print themselves: lines of toned text, tables of them, and the same as HTML for notebooks.

A line is a list of :class:`Span` values. ``str`` of a report, a timeline or a plan joins their texts; the command line
prints the same spans and gives each tone a colour; a notebook gets them as HTML.
"""

from __future__ import annotations

import html
import importlib
import textwrap
from collections.abc import Collection, Iterable, Iterator, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from schedverify.core.errors import printable


class Tone(StrEnum):
    """What a piece of text means, for whoever colours it."""

    PLAIN = ""
    GOOD = "good"
    BEST = "best"
    BAD = "bad"
    OPEN = "open"
    FAINT = "faint"
    STRONG = "strong"
    COMMAND = "command"
    """What can be copied and run: its line is never broken."""


class Span(NamedTuple):
    """A piece of a line, with its tone; who shows its text makes it printable first."""

    text: str
    tone: Tone = Tone.PLAIN

    @property
    def shown(self) -> str:
        """The text on one line, without what a terminal would obey."""
        return printable(self.text)


Line = list[Span]

_GAP: Final = 2
"""Blanks behind every column of a table, the last one too."""
_CSS: Final = {
    Tone.GOOD: "color:green",
    Tone.BEST: "color:green;font-weight:bold",
    Tone.BAD: "color:#c00;font-weight:bold",
    Tone.OPEN: "color:#960",
    Tone.FAINT: "opacity:0.6",
    Tone.STRONG: "font-weight:bold",
    Tone.COMMAND: "font-weight:bold",
}


def table(rows: Iterable[Sequence[Span]], width: int | None = None, right: Collection[int] = ()) -> Iterator[Line]:
    """Yield the lines of a table: each column as wide as its longest cell, two blanks behind it.

    Parameters
    ----------
    rows
        Cells by row; all rows have as many.
    width
        The most letters of a line, or None. Where a table is wider, cells of its widest column are wrapped.
    right
        The columns, from 0, whose cells stand at the right.
    """
    cells = [[Span(cell.shown, cell.tone) for cell in row] for row in rows]
    widths = _widths([max(len(cell.text) for cell in column) for column in zip(*cells, strict=True)], width)
    for row in cells:
        wrapped = [_wrapped(cell.text, room) for cell, room in zip(row, widths, strict=True)]
        for number in range(max(map(len, wrapped))):
            line = []
            for column, (cell, lines, room) in enumerate(zip(row, wrapped, widths, strict=True)):
                text = lines[number] if number < len(lines) else ""
                padded = text.rjust(room) if column in right else text.ljust(room)
                line.append(Span(padded + " " * _GAP, cell.tone))
            yield line


def text_of(lines: Iterable[Line]) -> str:
    """Return lines as plain text, without blanks at their ends."""
    return "\n".join("".join(span.shown for span in line).rstrip() for line in lines)


def html_of(lines: Iterable[Line]) -> str:
    """Return lines as preformatted HTML, each tone in its colour."""
    body = "\n".join("".join(map(_html_span, line)).rstrip() for line in lines)
    return f'<pre style="line-height:1.3">{body}</pre>'


def picture_of(value: object) -> str:
    """Return the picture of a schedule, plan or timeline as SVG.

    The room of pictures is asked for by its name, when a picture is wanted: values do not depend on it.
    """
    return str(importlib.import_module("schedverify.drawing").draw(value).svg())


def counted(count: int, word: str) -> str:
    """Return a number with its word, in the plural where it is not 1."""
    return f"{count} {word}{'s' * (count != 1)}"


def _widths(widths: list[int], limit: int | None) -> list[int]:
    """Take what is too much for a line from the widest columns, in equal parts."""
    while limit is not None and (excess := sum(widths) + _GAP * len(widths) - limit) > 0 and max(widths) > 1:
        most = max(widths)
        second = max((width for width in widths if width < most), default=1)
        widest = [column for column, width in enumerate(widths) if width == most]
        for done, column in enumerate(widest):
            cut = min(most - second, round(excess / (len(widest) - done)))
            widths[column] -= cut
            excess -= cut
    return widths


def _wrapped(text: str, room: int) -> list[str]:
    """Return a cell as the lines that fit its column; blanks at its beginning are kept."""
    return [text] if len(text) <= room else textwrap.wrap(text, room, break_on_hyphens=False) or [""]


def _html_span(span: Span) -> str:
    text = html.escape(span.shown)
    return f'<span style="{_CSS[span.tone]}">{text}</span>' if span.tone in _CSS else text
