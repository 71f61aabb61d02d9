"""The cells of a picture in letters: how wide they are, and what they show.

A cell shows letters, alike for all steps of a kind. Where a terminal has colour and steps are crowded, it shows two
halves with a colour each, which is twice as fine.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Final

import numpy as np

from schedverify.core.op import Join, Step
from schedverify.drawing.labels import FAULT, IDLE, candidates, colour
from schedverify.drawing.panel import Panel, PanelRow
from schedverify.drawing.raster import EMPTY, CellRun, Scale, runs, squeezed, stretched


def shared_scale(family: Sequence[Panel], room: int) -> Scale:
    """Return the scale that panels share: whole cells for a tick where the room allows, else ticks squeezed into it."""
    room = max(room, 1)
    horizon = max(panel.horizon for panel in family)
    rows = [row for panel in family for row in panel.rows]
    coarse = int(np.gcd.reduce([np.gcd.reduce(np.concatenate((row.starts, row.ends, [horizon]))) for row in rows]))
    units = horizon // coarse
    if units > room:
        return squeezed(horizon, room)
    wanted = max((_need(panel, row, coarse) for panel in family for row in panel.rows), default=1)
    return stretched(horizon, coarse, min(room // units, wanted))


class CellTexts:
    """The texts in the cells of a panel.

    They name the stage only if every step of the panel has room for that and a blank, and the micro-batch only if every
    step of the same kind has room for it.
    """

    def __init__(self, panel: Panel, blocks: Sequence[Sequence[CellRun]]) -> None:
        self.panel = panel
        self.staged = panel.chunks > 1
        self.unnumbered: set[int] = set()
        self.tight = False
        for row, row_blocks in zip(panel.rows, blocks, strict=True):
            for run in row_blocks:
                if run.position != EMPTY:
                    self._see(row, run)

    def text(self, row: PanelRow, run: CellRun, fill: str) -> str:
        """Return the text of a run of cells, which has as many letters as the run has cells.

        Parameters
        ----------
        fill
            The letter that fills the cells behind the step's name.
        """
        step, cells = row.step(run.position), run.last - run.first
        texts = candidates(step, stage=self.staged or _foreign(row, step))
        bare = int(row.kinds[run.position]) in self.unnumbered and not _foreign(row, step)
        text = texts[-1] if bare else next((text for text in texts if len(text) <= cells), texts[-1])
        if row.chunk(step.ops[0].stage) % 2 and not self.staged:
            text = text.lower()
        if self.tight or len(text) == cells:
            return text.ljust(cells, fill)
        return text.ljust(cells - 1, fill) + " "

    def _see(self, row: PanelRow, run: CellRun) -> None:
        step, cells = row.step(run.position), run.last - run.first
        if step.join is Join.GROUP:
            return
        if self.staged and len(candidates(step, stage=True)[0]) >= cells:
            self.staged = False
        needed = len(candidates(step, stage=False)[0])
        if needed > cells:
            self.unnumbered.add(int(row.kinds[run.position]))
        self.tight = self.tight or needed >= cells


def _foreign(row: PanelRow, step: Step) -> bool:
    """Whether a step's stage is not placed on the rank; the step's text names the stage then."""
    return step.ops[0].stage not in row.chunks


def _need(panel: Panel, row: PanelRow, coarse: int) -> int:
    """Return how many cells ``coarse`` ticks must have so that the text of every step and a blank fit into its bar."""
    lengths = (row.ends - row.starts) // coarse
    need = 1
    for position in np.flatnonzero(lengths):
        step = row.step(int(position))
        if step.join is Join.GROUP:
            continue
        text = candidates(step, stage=panel.chunks > 1 or _foreign(row, step))[0]
        need = max(need, -(-(len(text) + 1) // int(lengths[position])))
    return need


_LEFT: Final = "\N{LEFT HALF BLOCK}"
_RIGHT: Final = "\N{RIGHT HALF BLOCK}"


def half_blocks(panel: Panel, row: PanelRow, scale: Scale) -> list[tuple[str, str]]:
    """Return the cells of a row as pieces of text with styles in the words of rich.

    Parameters
    ----------
    scale
        The scale of the whole cells, with more ticks than cells.
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
