"""What a CSV of PyTorch holds beside the schedule: its line ends and its idle cells."""

from __future__ import annotations

import re
from typing import Final, NamedTuple

LINE: Final = re.compile(r"\r\n|\r|\n")
EMPTY: Final = ("", '"', '""')
"""What stands in a cell of an idle step."""


class Layout(NamedTuple):
    r"""How a CSV is laid out; with the schedule it gives the same text again, if PyTorch wrote it.

    Attributes
    ----------
    line_end
        What ends a row: ``\n``, or ``\r\n`` as PyTorch writes it.
    idle
        For each rank the columns (from 0, rising) that are empty: steps of time in which it does nothing. PyTorch
        writes them into a compute order, and none into one with communication. Empty where no rank is idle.
    """

    line_end: str = "\n"
    idle: tuple[tuple[int, ...], ...] = ()

    def row(self, rank: int, cells: list[str]) -> list[str]:
        """Return the cells of a rank with the empty ones between them."""
        empty = set(self.idle[rank]) if rank < len(self.idle) else set()
        if not empty:
            return cells
        rest = iter(cells)
        return ["" if column in empty else next(rest, "") for column in range(len(cells) + len(empty))]


PLAIN: Final = Layout()
"""Rows that end in a line feed, without empty cells."""


def lines_of(text: str) -> list[str]:
    """Return the rows of a CSV, one a rank, without their line ends."""
    lines = LINE.split(text)
    return lines if lines[-1] else lines[:-1]


def layout_of(text: str) -> Layout:
    """Return the layout of a CSV; where its line ends differ, the first counts."""
    end = LINE.search(text)
    return Layout(end[0] if end else "\n", tuple(map(_idle, lines_of(text))))


def _idle(line: str) -> tuple[int, ...]:
    return tuple(column for column, cell in enumerate(line.split(",")) if cell.strip() in EMPTY) if line else ()
