"""Cells of two halves, each with a colour of its own: twice as fine as letters, for terminals that have colour."""

from __future__ import annotations

import itertools
from typing import Final

from schedverify.drawing.labels import IDLE
from schedverify.drawing.palette import FAULT, colour
from schedverify.drawing.panel import Panel, PanelRow
from schedverify.drawing.raster import EMPTY, Scale, runs, squeezed

_LEFT: Final = "\N{LEFT HALF BLOCK}"
_RIGHT: Final = "\N{RIGHT HALF BLOCK}"


def halves(panel: Panel, row: PanelRow, scale: Scale) -> list[tuple[str, str]]:
    """Return the cells of a row as pieces of text with styles in the words of rich.

    Parameters
    ----------
    scale
        That of the whole cells; it must be a squeezed one.
    """
    fine = squeezed(int(scale.edges[-1]), 2 * scale.cells)
    colours: list[str] = []
    for first, last, position in runs(row, fine):
        colours += [_colour(panel, row, position)] * (last - first)
    end = scale.column(panel.horizon - 1) + 1
    cells = list(zip(colours[::2], colours[1::2], strict=True))
    pieces = [_piece(pair, len(list(group))) for pair, group in itertools.groupby(cells[:end])]
    return [*pieces, (" " * (scale.cells - end), "")]


def _colour(panel: Panel, row: PanelRow, position: int) -> str:
    if position == EMPTY:
        return ""
    op = row.step(position).ops[0]
    return FAULT if position in row.marks else colour(op.kind, row.chunk(op.stage), panel.chunks)


def _piece(pair: tuple[str, str], cells: int) -> tuple[str, str]:
    left, right = pair
    if left == right:
        return (" " * cells, f"on {left}") if left else (IDLE * cells, "dim")
    if not left:
        return _RIGHT * cells, right
    return _LEFT * cells, f"{left} on {right}" if right else left
