"""The CSV of PyTorch's pipeline runtime, compute only or with communication, in today's grammar and that until 2.5.

Waits stand in it from PyTorch 2.15 on.

Until PyTorch 2.5 B was the input part of the backward, and BW the whole of it; since then they are I and B. A file of
F, B and communication alone reads the same in both.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from io import StringIO
from typing import Final, NamedTuple

import numpy as np

from schedverify.core.errors import Fault, InputError, ScheduleError
from schedverify.core.op import Join, Kind, pack_step
from schedverify.core.schedule import MAX_FAULTS, MAX_RANKS, Schedule, Words, up_to_most

LINE_END: Final = re.compile(r"\r\n|\r|\n")
IDLE_CELLS: Final = ("", '"', '""')
"""The text of a cell in which the rank is idle."""
OLD_GRAMMAR: Final = "torch-2.5-csv"
_CELL: Final = re.compile(r"[^,]+")
WAITS: Final = (Kind.WAIT_SEND_F, Kind.WAIT_SEND_B, Kind.WAIT_REDUCE_GRAD)
"""What PyTorch's runtime knows from 2.15 on only."""
_NO_WAITS: Final = (
    "PyTorch's CSV has no waits before 2.15, and older versions read W for WAIT; torch-2.15-comms-csv has them"
)
_NOT_CSV: Final = "PyTorch's CSV has no groups and names no peers; use the text form"
_WHOLE: Final = re.compile(r"(?<![0-9])[0-9]+BW[0-9]+")
_INPUT: Final = re.compile(r"[0-9]I[0-9]")
_BACKWARD: Final = re.compile(r"(?<![0-9])([0-9]+)B([0-9]+)")
_WEIGHT: Final = re.compile(r"(?<![0-9])([0-9]+)W([0-9]+)")
_EITHER: Final = re.compile(r"([0-9])(BW|B)([0-9])")


class Layout(NamedTuple):
    r"""The line ends and idle cells of a CSV, which a schedule does not hold; both together give PyTorch's text again.

    Attributes
    ----------
    line_end
        The end of each row: ``\n``, or ``\r\n`` as PyTorch writes it.
    idle
        For each rank the columns that are empty, in rising order from 0: time in which the rank is idle. PyTorch
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
"""The layout in which rows end with a line feed and no cell is empty."""


def lines_of(text: str) -> list[str]:
    """Return the rows of a CSV, one for each rank, without their line ends."""
    lines = LINE_END.split(text)
    return lines if lines[-1] else lines[:-1]


def layout_of(text: str) -> Layout:
    """Return the layout of a CSV; if its line ends differ, the layout has that of the first row."""
    end = LINE_END.search(text)
    return Layout(end[0] if end else "\n", tuple(map(_idle, lines_of(text))))


def _idle(line: str) -> tuple[int, ...]:
    return tuple(column for column, cell in enumerate(line.split(",")) if cell.strip() in IDLE_CELLS) if line else ()


def parse_csv(text: str) -> Schedule:
    """Read PyTorch's CSV: a row a rank, no header; a blank row is a rank without steps, empty cells are idle time.

    Raises
    ------
    InputError
        With row and column (both from 1, empty cells counted) of every fault (the first 20). A file in the grammar
        that PyTorch had until 2.5 is refused with the command that rewrites it.
    """
    _check_rows(text)
    refuse_old(text)
    faults: list[Fault] = []
    rows: list[Words] = []
    for number, line in enumerate(lines_of(text), 1):
        rows.append(_parse_line(line, number, faults))
        if len(faults) >= MAX_FAULTS:
            break
    if faults:
        raise InputError(up_to_most(faults))
    return Schedule(rows)


def to_csv(schedule: Schedule, *, comms: bool, waits: bool = True, layout: Layout = PLAIN) -> str:
    """Return PyTorch's CSV of a schedule.

    Parameters
    ----------
    comms
        Whether communication is written, where it stands in the schedule; without it the steps of compute alone are
        (PyTorch's ``compute_only`` form).
    waits
        Whether waits are written with the communication, as PyTorch reads them from 2.15 on, or refused.
    layout
        Line ends, and the empty cells of each rank.

    Raises
    ------
    ScheduleError
        If a group, an operation that names its peer, or an unwanted wait would have to be written.
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator=layout.line_end)
    writer.writerows(layout.row(rank, list(_cells(schedule, rank, comms, waits))) for rank in range(schedule.ranks))
    return text.getvalue()


def _check_rows(text: str) -> None:
    rows = text.count("\n") + text.count("\r")
    if rows > 2 * MAX_RANKS:
        raise InputError(Fault("", f"{rows} line ends, where a schedule has at most {MAX_RANKS} ranks", "a row a rank"))
    if not text:
        raise InputError(Fault("", "no rank in it", "one row a rank, such as 0F0,0F1,0B0,0B1"))


def _parse_line(line: str, row: int, faults: list[Fault]) -> Words:
    words: list[int] = []
    for match in _CELL.finditer(line):
        cell = match[0].strip()
        if cell not in IDLE_CELLS:
            try:
                words += _parse_cell(cell)
            except InputError as error:
                key = f"row {row}, column {line.count(',', 0, match.start()) + 1}"
                faults += [fault._replace(key=key) for fault in error.faults]
        if len(faults) >= MAX_FAULTS:
            break
    return np.array(words, dtype=np.int64)


def _parse_cell(cell: str) -> list[int]:
    if len(cell) > 1 and cell[0] == cell[-1] == '"':
        cell = cell[1:-1]
    if cell.startswith("[") or ">" in cell or "<" in cell:
        raise InputError(Fault("", f"{cell[:60]!r} has no place here", _NOT_CSV))
    return pack_step(cell)


def _cells(schedule: Schedule, rank: int, comms: bool, waits: bool) -> Iterator[str]:
    for position, step in enumerate(schedule.steps(rank)):
        if comms or any(op.kind.is_compute for op in step.ops):
            if step.join is Join.GROUP or any(op.peer is not None for op in step.ops):
                raise ScheduleError(f"rank {rank}, position {position}, {step}: {_NOT_CSV}")
            if not waits and any(op.kind in WAITS for op in step.ops):
                raise ScheduleError(f"rank {rank}, position {position}, {step}: {_NO_WAITS}")
            yield str(step)


def refuse_old(text: str) -> None:
    """Raise where a CSV is in the old grammar: BW stands in it, or no I at all and B beside W of one micro-batch.

    Raises
    ------
    InputError
        With row and column of the first sign, and the command that rewrites the file.
    """
    sign = _sign(text)
    if sign is not None:
        found, again = f"{sign[0][:60]!r} stands in it", ""
        if "W" not in sign[0]:
            found = f"{sign[0][:60]!r} stands beside the W of its stage and micro-batch, and I nowhere"
            again = "; if B is the whole backward here, give the schedule as text to have it judged"
        was = "so it was until PyTorch 2.5, with B for the input part of the backward and BW for the whole"
        hint = f"schedverify convert --from {OLD_GRAMMAR} OLD.csv NEW.csv rewrites it with I and B{again}"
        raise InputError(Fault(_place(text, sign.start()), f"{found}: {was}", hint))


def modernized(text: str) -> str:
    """Return a CSV of the old grammar in today's grammar: B becomes I, BW becomes B, and nothing else changes.

    A file without a sign of the old grammar (F, B and communication alone) comes back as it is.

    Raises
    ------
    InputError
        If I stands in it, which the old grammar does not have; with row and column.
    """
    today = _INPUT.search(text)
    if today is not None:
        place = _place(text, today.start())
        raise InputError(Fault(place, f"I is not in the grammar of {OLD_GRAMMAR}", "leave --from away"))
    return _EITHER.sub(_renamed, text) if _sign(text) else text


def _renamed(match: re.Match[str]) -> str:
    return f"{match[1]}{'I' if match[2] == 'B' else 'B'}{match[3]}"


def _sign(text: str) -> re.Match[str] | None:
    """Return the first cell that only the old grammar can mean, if there is one."""
    if "W" not in text:
        return None
    whole = _WHOLE.search(text) if "BW" in text else None
    if whole is not None or _INPUT.search(text) is not None:
        return whole
    weights = {match.groups() for match in _WEIGHT.finditer(text)}
    return next((match for match in _BACKWARD.finditer(text) if match.groups() in weights), None)


def _place(text: str, start: int) -> str:
    ends = list(LINE_END.finditer(text, 0, start))
    column = text.count(",", ends[-1].end() if ends else 0, start) + 1
    return f"row {len(ends) + 1}, column {column}"
