"""The value in the middle: for every rank, the order of its steps. No times, no costs."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InputError
from schedverify.core.op import (
    INDEX_MASK,
    JOIN_SHIFT,
    KIND_MASK,
    KIND_SHIFT,
    STAGE_SHIFT,
    Join,
    Kind,
    Op,
    Step,
    pack_step,
    texts_of,
    unpack,
)
from schedverify.core.row_text import computes_alone, row_text, text_rows

IntArray = NDArray[np.int64]
"""Whole numbers; where a docstring gives no shape, one for each operation, message or edge of what it is about."""
Flags = NDArray[np.bool_]
"""Marks, alike."""
Words = IntArray
"""The packed operations of one rank, in order; see :mod:`schedverify.core.op`."""

OPERATION_MASK: Final = (1 << JOIN_SHIFT) - 1
"""The bits of a packed word that say which operation it is, without how it joins the one before it."""
MAX_RANKS: Final = 65_535
MAX_FAULTS: Final = 20

_LAST_KIND: Final = max(map(int, Kind))
_MOST_PRINTED: Final = 400
"""Operations up to which a value is printed in full where it is part of an example."""
_STEP: Final = re.compile(r"\S+")


class Schedule:
    r"""For every rank, the order of its steps.

    Two schedules are equal where their orders are; ``str`` gives the text form, which parses back to an equal one.

    Parameters
    ----------
    rows
        For each rank its packed operations in order. They are copied and frozen.

    Raises
    ------
    InputError
        If there is no rank, or a word is no operation.

    Examples
    --------
    >>> schedule = Schedule.parse("0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1")
    >>> schedule.ranks, len(schedule)
    (2, 8)
    >>> str(next(schedule.steps(1)))
    '1F0'
    """

    __slots__ = ("_hash", "rows")

    rows: tuple[Words, ...]
    _hash: int | None

    def __init__(self, rows: Iterable[Iterable[int] | Words]) -> None:
        frozen = tuple(_frozen(row) for row in rows)
        if not 0 < len(frozen) <= MAX_RANKS:
            raise InputError(f"a schedule has 1 to {MAX_RANKS} ranks, not {len(frozen)}")
        object.__setattr__(self, "rows", frozen)
        object.__setattr__(self, "_hash", None)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"a Schedule cannot be changed ({name})")

    @classmethod
    def of(cls, rows: Iterable[Iterable[str | Op | Step]]) -> Schedule:
        """Make a schedule from rows of operations and steps, as text or as values."""
        return cls([word for step in row for word in _words(step)] for row in rows)

    @classmethod
    def parse(cls, text: str) -> Schedule:
        """Read the text form: a line a rank, steps parted by blanks, ``-`` for an empty rank, ``#`` comments.

        Raises
        ------
        InputError
            With the line and the step of every fault (the first 20).
        """
        check_types("Schedule.parse", text=(text, str))
        rows: list[Words] = []
        faults: list[Fault] = []
        for number, row in text_rows(text):
            rows.append(_parse_row(row, f"line {number}", faults))
            if len(faults) >= MAX_FAULTS or len(rows) > MAX_RANKS:
                break
        if not rows and not faults:
            faults.append(Fault("", "no rank in it", "one line a rank, such as 0F0 0F1 0B0 0B1"))
        if faults:
            raise InputError(up_to_most(faults))
        return cls(rows)

    @property
    def ranks(self) -> int:
        """How many ranks there are."""
        return len(self.rows)

    @property
    def lowered(self) -> bool:
        """Whether communication stands in the orders."""
        return any(bool((kinds(row) > int(Kind.W)).any()) for row in self.rows)

    def compute_only(self) -> Schedule:
        """Return the schedule without its communication: the order of the compute operations."""
        return Schedule(map(_computing, self.rows)) if self.lowered else self

    def steps(self, rank: int) -> Iterator[Step]:
        """Walk the steps of one rank, in order."""
        pending: list[int] = []
        for word in self.rows[rank].tolist():
            if pending and not word >> JOIN_SHIFT:
                yield _step(pending)
                pending = []
            pending.append(word)
        if pending:
            yield _step(pending)

    def step(self, rank: int, position: int) -> Step:
        """Return one step of one rank."""
        row = self.rows[rank]
        return _step(row[positions(row) == position].tolist())

    def strings(self) -> list[list[str]]:
        """Return the rows as lists of step texts, as plans hold them."""
        return [
            [str(step) for step in self.steps(rank)] if (row >> JOIN_SHIFT).any() else texts_of(row.tolist())
            for rank, row in enumerate(self.rows)
        ]

    def __len__(self) -> int:
        """Return the number of operations on all ranks."""
        return sum(map(len, self.rows))

    def __str__(self) -> str:
        return "\n".join(self._row_text(rank) or "-" for rank in range(self.ranks))

    def _row_text(self, rank: int) -> str:
        row = self.rows[rank]
        return row_text(row) if computes_alone(row) else " ".join(map(str, self.steps(rank)))

    def __repr__(self) -> str:
        return f"<Schedule of {self.ranks} ranks, {len(self)} operations>"

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:  # noqa: ARG002 - so it is called
        """Print what makes this schedule again, where hypothesis or IPython ask for it; of a large one, its size."""
        printer.text(f"Schedule.parse({str(self)!r})" if len(self) <= _MOST_PRINTED else repr(self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Schedule):
            return NotImplemented
        return len(self.rows) == len(other.rows) and all(map(np.array_equal, self.rows, other.rows))

    def __hash__(self) -> int:
        if self._hash is None:
            object.__setattr__(self, "_hash", hash(tuple(row.tobytes() for row in self.rows)))
        return int(self._hash or 0)

    def __reduce__(self) -> tuple[Any, ...]:
        return Schedule, (self.rows,)


def check_ranks(schedule: Schedule, ranks: int) -> None:
    """Raise where a schedule has another number of rows than its problem has ranks.

    Raises
    ------
    InputError
        With the first row that is missing or too many.
    """
    if schedule.ranks != ranks:
        message = f"the schedule has {schedule.ranks} rows, the problem {ranks} ranks"
        hint = "one row for each rank, also for one without steps; is it the schedule of another problem?"
        raise InputError(Fault(f"row {min(schedule.ranks, ranks) + 1}", message, hint))


def up_to_most(faults: list[Fault]) -> list[Fault]:
    """Return the faults, with a remark where reading stopped at the most that are told."""
    return faults if len(faults) < MAX_FAULTS else [*faults, Fault("", f"reading stopped at the {MAX_FAULTS}th fault")]


def kinds(row: Words) -> IntArray:
    """Return the kind of each operation of a row."""
    return row >> KIND_SHIFT & KIND_MASK


def op_stages(row: Words) -> IntArray:
    """Return the stage of each operation of a row."""
    return row >> STAGE_SHIFT & INDEX_MASK


def positions(row: Words) -> IntArray:
    """Return for each operation of a row the position of its step."""
    return np.cumsum(row >> JOIN_SHIFT == 0, dtype=np.int64) - 1


def step_bounds(row: Words) -> IntArray:
    """Return by which operation of a row each of its steps begins, and last how many operations there are."""
    return np.append(np.flatnonzero(row >> JOIN_SHIFT == 0), len(row))


def is_transfer(row: Words) -> Flags:
    """Return for each operation of a row whether it sends or receives."""
    return (kinds(row) >= int(Kind.SEND_F)) & (kinds(row) <= int(Kind.RECV_B))


def is_send(row: Words) -> Flags:
    """Return for each operation of a row whether it sends."""
    return np.asarray((kinds(row) == int(Kind.SEND_F)) | (kinds(row) == int(Kind.SEND_B)))


def is_communication(row: Words) -> Flags:
    """Return for each operation of a row whether it sends, receives or waits for a send."""
    return is_transfer(row) | is_send_wait(row)


def is_send_wait(row: Words) -> Flags:
    """Return for each operation of a row whether it waits until a send is complete."""
    return (kinds(row) >= int(Kind.WAIT_SEND_F)) & (kinds(row) <= int(Kind.WAIT_SEND_B))


def waits_for_sends(schedule: Schedule) -> bool:
    """Whether a wait for a send stands in a schedule."""
    return any(bool(is_send_wait(row).any()) for row in schedule.rows)


def rank_of_each(schedule: Schedule) -> IntArray:
    """Return the rank of each operation of a schedule, rank after rank, in the order of its concatenated rows."""
    return np.repeat(np.arange(schedule.ranks), [len(row) for row in schedule.rows])


def _computing(row: Words) -> Words:
    """Return the operations of a row that compute; the first of a step that are left begins it."""
    kept = kinds(row) <= int(Kind.W)
    words, step = row[kept], positions(row)[kept]
    begins = np.append(True, np.diff(step) != 0)[: len(words)]
    return np.where(begins, words & OPERATION_MASK, words)


def _step(words: list[int]) -> Step:
    join = Join(words[1] >> JOIN_SHIFT) if len(words) > 1 else Join.BEGIN
    return Step(tuple(map(unpack, words)), join)


def _parse_row(line: str, place: str, faults: list[Fault]) -> Words:
    """Read the steps of one rank; faults are added with their place, up to the most that are told."""
    words = array("q")
    for column, match in enumerate(_STEP.finditer(line if line != "-" else ""), 1):
        try:
            words.extend(pack_step(match[0]))
        except InputError as error:
            faults += [fault._replace(key=f"{place}, step {column}") for fault in error.faults]
            if len(faults) >= MAX_FAULTS:
                break
    return np.array(words, dtype=np.int64)


def _words(step: str | Op | Step) -> list[int]:
    if isinstance(step, str):
        return pack_step(step)
    if isinstance(step, Op):
        return [step.pack()]
    return [op.pack(step.join if i else Join.BEGIN) for i, op in enumerate(step.ops)]


def _frozen(row: Iterable[int] | Words) -> Words:
    words = np.array(row if isinstance(row, np.ndarray) else list(row), dtype=np.int64)
    if words.ndim != 1 or (len(words) and not _well_formed(words)):
        raise InputError("a row holds packed operations; make it with Schedule.of or Schedule.parse")
    words.flags.writeable = False
    return words


def _well_formed(words: Words) -> bool:
    join = words >> JOIN_SHIFT
    mixed = (join[1:] != 0) & (join[:-1] != 0) & (join[1:] != join[:-1])
    sound = (words >= 0) & (kinds(words) <= _LAST_KIND)
    return bool(sound.all() and join[0] == 0 and not mixed.any())
