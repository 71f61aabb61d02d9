"""The table that PyTorch prints of an order, in logs and errors: a row for each step of time, a column for each rank.

Such as ``Step 00: 0F0`` below ``Rank 0``. A table may stand within other text, with the same words before each line, as
loggers put them there.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Final, NamedTuple

import numpy as np

from schedverify.core.errors import Fault, InputError
from schedverify.core.op import pack_step
from schedverify.core.schedule import MAX_FAULTS, MAX_RANKS, Schedule, up_to_most
from schedverify.formats.table_marks import PRINTED_HEADER
from schedverify.formats.torch_csv import Layout

_COLUMN: Final = re.compile(r"Rank ([0-9]+)")
_STEP: Final = re.compile(r"\bStep ([0-9]{1,9}):(?: |$)")
_MARK: Final = re.compile(r"[ \t]*<--.*$")
"""What points at the step at which PyTorch gave up, such as ``<-- ERROR HERE``."""
_CELL: Final = re.compile(r"\S+")
_IDLE: Final = ("None", '""', "''")
"""What stands in an idle cell that is not blank."""
_WHOLE: Final = "paste the whole table, as it was printed"


class PrintedTable(NamedTuple):
    """An order as a printed table has it.

    Attributes
    ----------
    schedule
        The order.
    layout
        In which steps each rank is idle, up to its last action.
    """

    schedule: Schedule
    layout: Layout


class _Row(NamedTuple):
    """A line of a table: its number in the text, the text of its label, and what stands behind that."""

    number: int
    label: str
    cells: str

    def place(self, rank: int) -> str:
        return f"row {self.number} (Step {self.label}), column {rank + 1} (Rank {rank})"


class _Table(NamedTuple):
    """A header, by rank where its column begins, and the rows below it."""

    number: int
    offsets: tuple[int, ...]
    rows: list[_Row]


def parse_printed_table(text: str) -> PrintedTable:
    """Read the table that stands in a text; lines before and behind it are passed over.

    Raises
    ------
    InputError
        With row and column (from 1, and by their names) of every fault (the first 20): a cell that is no action, one
        under no rank, a row that lacks. Also where several tables stand in the text that are not the same.
    """
    tables = _tables(text)
    found = [_parsed(table) for table in tables]
    for table, (one, other) in zip(tables[1:], pairwise(found), strict=True):
        if one.schedule != other.schedule:
            message = "another table begins here, which is not the same as the one before"
            raise InputError(Fault(f"row {table.number}", message, "leave one of them in the file"))
    return found[0]


def _tables(text: str) -> list[_Table]:
    tables: list[_Table] = []
    ended = True
    for number, line in enumerate(text.splitlines(), 1):
        step = _STEP.search(line) if tables else None
        if PRINTED_HEADER.match(line):
            tables.append(_Table(number, _offsets(line, number), []))
            ended = False
        elif step and not ended:
            tables[-1].rows.append(_Row(number, step[1], _MARK.sub("", line[step.end() :])))
        elif step and _continues(tables[-1], step[1]):
            message = "this row is parted from the one before by another line"
            raise InputError(Fault(f"row {number} (Step {step[1]})", message, _WHOLE))
        elif tables and tables[-1].rows:
            ended = True
    return tables


def _continues(table: _Table, label: str) -> bool:
    """Whether a label is that of the next row of a table."""
    last = table.rows[-1].label if table.rows else ""
    return bool(last) and label == str(int(last) + 1).zfill(len(last))


def _offsets(header: str, number: int) -> tuple[int, ...]:
    """Return where the column of each rank begins, counted from that of rank 0."""
    columns = list(_COLUMN.finditer(header, header.index("Rank 0")))
    if [int(column[1]) for column in columns] != list(range(len(columns))):
        raise InputError(Fault(f"row {number}", "the ranks do not count from 0", "Rank 0 Rank 1 Rank 2, and so on"))
    if len(columns) > MAX_RANKS:
        raise InputError(Fault(f"row {number}", f"{len(columns)} ranks, where a schedule has at most {MAX_RANKS}"))
    return tuple(column.start() - columns[0].start() for column in columns)


def _parsed(table: _Table) -> PrintedTable:
    faults = list(_row_faults(table))
    words: list[list[int]] = [[] for _ in table.offsets]
    idle: list[list[int]] = [[] for _ in table.offsets]
    last = [-1] * len(table.offsets)
    for time, row in enumerate(table.rows if not faults else ()):
        for rank, cell in _cells(row, table.offsets, faults).items():
            try:
                words[rank] += pack_step(cell)
            except InputError as error:
                faults += [fault._replace(key=row.place(rank)) for fault in error.faults]
            idle[rank] += range(last[rank] + 1, time)
            last[rank] = time
        if len(faults) >= MAX_FAULTS:
            break
    if faults:
        raise InputError(up_to_most(faults))
    rows = [np.array(row, dtype=np.int64) for row in words]
    return PrintedTable(Schedule(rows), Layout("\n", tuple(map(tuple, idle))))


def _row_faults(table: _Table) -> list[Fault]:
    """Return what is wrong with the rows of a table, whose labels count the steps from 0 in as many digits each."""
    if not table.rows:
        return [Fault(f"row {table.number}", "no row stands below the names of the ranks", "Step 0: 0F0, and so on")]
    digits = len(table.rows[0].label)
    for time, row in enumerate(table.rows):
        wanted = str(time).zfill(digits)
        if row.label != wanted:
            return [Fault(f"row {row.number}", f"Step {row.label}, where Step {wanted} is expected", _WHOLE)]
    if digits > 1 and len(table.rows) <= 10 ** (digits - 1):
        last = table.rows[-1]
        message = f"the table ends with Step {last.label}, and its labels are those of a longer one"
        return [Fault(f"row {last.number}", message, _WHOLE)]
    return []


def _cells(row: _Row, offsets: tuple[int, ...], faults: list[Fault]) -> dict[int, str]:
    """Return by rank the cell of each that is not idle.

    A cell begins where its column does. Where each rank has one, their order says it all, however they are parted.
    """
    found = [(match.start(), match[0]) for match in _CELL.finditer(row.cells)]
    if len(found) == len(offsets):
        cells = dict(enumerate(cell for _, cell in found))
    else:
        columns = {offset: rank for rank, offset in enumerate(offsets)}
        for start, cell in found:
            if start not in columns:
                message = f"{cell[:60]!r} stands below no rank"
                faults.append(
                    Fault(f"row {row.number} (Step {row.label})", message, "keep the blanks between the columns")
                )
        cells = {columns[start]: cell for start, cell in found if start in columns}
    return {rank: cell for rank, cell in cells.items() if cell not in _IDLE}
