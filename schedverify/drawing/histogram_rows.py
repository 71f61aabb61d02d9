"""The rows of an SVG with too many steps to draw each: how much of the time each kind fills, as heights."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schedverify.core.op import Kind
from schedverify.drawing.markup import element, px
from schedverify.drawing.palette import colour
from schedverify.drawing.panel import GROUP, PAIR, Panel, PanelRow
from schedverify.drawing.raster import filled, squeezed
from schedverify.drawing.svg_rows import Ruler

_MOST_CELLS: Final = 480
_MOST_POINTS: Final = 60_000
"""The most cells of all rows together."""

_JOINED: Final = {PAIR: (Kind.F, "overlapped F and B"), GROUP: (Kind.SEND_F, "communications launched together")}


def strata(panel: Panel, row: PanelRow, ruler: Ruler, top: float) -> Iterator[str]:
    """Yield an area for each kind; in each cell its height is the share of the time that the kind fills."""
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
    """Return the outline of an area: along its upper side and back along its lower one."""
    there = zip(edges[1:].tolist(), upper.tolist(), strict=True)
    back = zip(edges[-2::-1].tolist(), lower[::-1].tolist(), strict=True)
    path = drawn = reached = ""
    for edge, share in (*there, *back):
        y = px(top + ruler.height * (1 - share))
        if not path:
            path = f"M{px(ruler.left)} {y}"
        elif y != drawn:
            path += f"H{reached}V{y}"
        drawn, reached = y, px(ruler.x(edge))
    return f"{path}H{reached}z"
