"""Turns the intervals of a row's steps into cells of equal width: decides which step each cell shows."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from schedverify.drawing.panel import PanelRow

Ticks = NDArray[np.int64]
EMPTY: Final = -1


class CellRun(NamedTuple):
    """Cells from ``first`` up to ``last`` (excluded) that show one step; ``position`` is -1 for idle time."""

    first: int
    last: int
    position: int


@dataclass(frozen=True, eq=False)
class Scale:
    """The borders of the cells of a picture, in time; all its rows share them.

    Attributes
    ----------
    edges
        The borders in rising order, shape (cells + 1,), counted in parts: ``coarse`` ticks have ``fine`` of them.
    coarse, fine
        A tick is converted to parts by a division by ``coarse``, which divides all ticks, and a product with ``fine``.
    """

    edges: Ticks
    coarse: int = 1
    fine: int = 1

    @property
    def cells(self) -> int:
        """How many cells there are."""
        return len(self.edges) - 1

    @property
    def squeezed(self) -> bool:
        """Whether a cell is longer than a tick."""
        return int(self.edges[-1]) > self.cells

    def column(self, tick: int) -> int:
        """Return the cell in which a tick lies."""
        place = tick * self.fine // self.coarse
        return int(np.searchsorted(self.edges, place, side="right")) - 1


def squeezed(horizon: int, cells: int) -> Scale:
    """Return the scale that puts ``horizon`` ticks into a number of cells that is smaller."""
    return Scale(np.array([horizon * i // cells for i in range(cells + 1)], dtype=np.int64))


def stretched(horizon: int, coarse: int, fine: int) -> Scale:
    """Return the scale on which every ``coarse`` ticks take ``fine`` cells."""
    return Scale(np.arange(horizon // coarse * fine + 1, dtype=np.int64), coarse, fine)


def runs(row: PanelRow, scale: Scale) -> list[CellRun]:
    """Return the runs of equal cells of a row, all cells in order.

    A cell shows the kind that fills most of it (idle counts as one), and of that kind the step in its middle, or
    else the first.
    """
    if not len(row.starts):
        return [CellRun(0, scale.cells, EMPTY)]
    starts, ends = (ticks // scale.coarse * scale.fine for ticks in (row.starts, row.ends))
    cells = _positions(row, starts, ends, scale.edges)
    cuts = np.flatnonzero(np.diff(cells)) + 1
    borders = [0, *cuts.tolist(), len(cells)]
    return [CellRun(first, last, int(cells[first])) for first, last in itertools.pairwise(borders)]


def filled(row: PanelRow, edges: Ticks) -> dict[int, Ticks]:
    """Return for each kind, by its number in ``row.kinds``, the ticks of each cell that its steps fill, shape (cells,).

    ``edges`` are the borders of the cells in ticks, shape (cells + 1,).
    """
    groups = _groups(row)
    return {kind: np.diff(_covered(row.starts[at], row.ends[at], edges)) for kind, at in groups.items()}


def _groups(row: PanelRow) -> dict[int, Ticks]:
    """Return the positions of the steps of each kind, by its number; steps that take no time are left out."""
    lasting = row.ends > row.starts
    return {kind: np.flatnonzero(lasting & (row.kinds == kind)) for kind in np.unique(row.kinds[lasting]).tolist()}


def _positions(row: PanelRow, starts: Ticks, ends: Ticks, edges: Ticks) -> Ticks:
    """Return the position of the step that each cell shows, or :data:`EMPTY`, shape (cells,)."""
    cells = np.full(len(edges) - 1, EMPTY, dtype=np.int64)
    groups = _groups(row).values()
    shares = [np.diff(_covered(starts[group], ends[group], edges)) for group in groups]
    most = np.diff(edges) - np.sum(shares, axis=0, dtype=np.int64)
    for group, ticks in zip(groups, shares, strict=True):
        better = ticks >= np.maximum(most, 1)
        cells[better] = group[_shown(starts[group], ends[group], edges)[better]]
        most = np.maximum(most, ticks)
    return cells


def _covered(starts: Ticks, ends: Ticks, times: Ticks) -> Ticks:
    """Return the ticks before each time that intervals fill, shape (times,). Intervals rise and do not overlap."""
    total = np.concatenate(([0], np.cumsum(ends - starts)))
    over = np.searchsorted(ends, times, side="right")
    begun = np.minimum(over, len(starts) - 1)
    running = np.where(over < len(starts), np.clip(times - starts[begun], 0, None), 0)
    return np.asarray(total[over] + running, dtype=np.int64)


def _shown(starts: Ticks, ends: Ticks, edges: Ticks) -> Ticks:
    """Return for each cell the index of the interval that holds its middle, else of the first that reaches into it."""
    middles = (edges[:-1] + edges[1:]) // 2
    holder = np.clip(np.searchsorted(starts, middles, side="right") - 1, 0, None)
    first = np.minimum(np.searchsorted(ends, edges[:-1], side="right"), len(ends) - 1)
    held = (starts[holder] <= middles) & (ends[holder] > middles)
    return np.asarray(np.where(held, holder, first), dtype=np.int64)
