"""Schedule files: the text form, and the CSV of PyTorch's pipeline runtime, compute only or with communication."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from io import StringIO
from typing import Final

import numpy as np

from schedverify.core.errors import Fault, InputError, ScheduleError
from schedverify.core.op import Join, Step, pack_step
from schedverify.core.schedule import MAX_FAULTS, MAX_RANKS, Schedule, Words, up_to_most
from schedverify.formats.csv_layout import EMPTY, PLAIN, Layout, lines_of
from schedverify.formats.old_csv import refuse_old

_CELL: Final = re.compile(r"[^,]+")
_COMMAS: Final = re.compile(r"^[^#\n]*,", re.MULTILINE)
_NOT_CSV: Final = "PyTorch's CSV has no groups and names no peers; use the text form"


def parse_text(text: str) -> Schedule:
    """Read the text form of a schedule; see :meth:`Schedule.parse`."""
    try:
        return Schedule.parse(text)
    except InputError as error:
        if not looks_like_csv(text):
            raise
        hint = Fault("", "there are commas in it", "PyTorch's CSV is read from files that end in .csv")
        raise InputError([*error.faults, hint]) from None


def looks_like_csv(text: str) -> bool:
    """Whether a comma stands in the text outside comments; none does in the text form."""
    return _COMMAS.search(text) is not None


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


def to_csv(schedule: Schedule, *, comms: bool, layout: Layout = PLAIN) -> str:
    """Return PyTorch's CSV of a schedule.

    Parameters
    ----------
    comms
        Whether communication is written, where it stands in the schedule; without it the steps of compute alone are
        (PyTorch's ``compute_only`` form).
    layout
        Line ends, and the empty cells of each rank.

    Raises
    ------
    ScheduleError
        If a group or an operation that names its peer would have to be written, which this form cannot hold.
    """
    text = StringIO()
    writer = csv.writer(text, lineterminator=layout.line_end)
    writer.writerows(layout.row(rank, list(_cells(schedule, rank, comms))) for rank in range(schedule.ranks))
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
        if cell not in EMPTY:
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


def _cells(schedule: Schedule, rank: int, comms: bool) -> Iterator[str]:
    for position, step in enumerate(schedule.steps(rank)):
        if comms or any(op.kind.is_compute for op in step.ops):
            if not _has_cell(step):
                raise ScheduleError(f"rank {rank}, position {position}, {step}: {_NOT_CSV}")
            yield str(step)


def _has_cell(step: Step) -> bool:
    return step.join is not Join.GROUP and all(op.peer is None for op in step.ops)
