"""Megatron's interleaved schedules as it holds them: its schedule table, and the order of chunks of each rank.

The schedule table says, for all ranks alike, which micro-batch and which model chunk each virtual micro-batch is. A
rank runs some forwards in this order, as many as its place in the pipeline asks for, then a forward and a backward in
turns; the backwards come in the same order, with the chunks from last to first. What follows for a rank is an order of
chunks counted from 1: ``2`` is a forward, ``-2`` a backward of chunk 2, of its next micro-batch.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final, NamedTuple

import numpy as np

from schedverify.core.errors import Fault, InputError
from schedverify.core.op import KIND_SHIFT, MAX_MICROBATCHES, MAX_STAGES, STAGE_SHIFT, Kind
from schedverify.core.schedule import MAX_FAULTS, MAX_RANKS, Schedule, Words, up_to_most
from schedverify.formats.table_marks import CHUNK_ROW, MEGATRON_ROW, MEGATRON_SIZE, MICROBATCH_ROW

_NAMES: Final = ("virtual_microbatch_id", MICROBATCH_ROW, CHUNK_ROW)
_TOKEN: Final = re.compile(r"[\[\](){}]|[A-Za-z_]\w*[ \t]*=|(?:[Rr]ank[ \t]*)?[0-9]+[ \t]*[:|]|[^\s,\[\](){}]+")
_LABEL: Final = re.compile(r"(?:[Rr]ank[ \t]*)?([0-9]{1,9})[ \t]*[:|]")
_BRACKETS: Final = frozenset("[](){}")
_NUMBER: Final = re.compile(r"[+-]?[0-9]{1,9}")
_SAID: Final = "--problem FILE says it, or a line in the file: pipeline_model_parallel_size = 4"


class _Cell(NamedTuple):
    """A number of a table, its line, and its place among the numbers of that line, from 1."""

    value: int
    row: int
    column: int

    def fault(self, message: str, hint: str = "") -> Fault:
        return Fault(f"row {self.row}, column {self.column}", message, hint)


_List = list[_Cell]


def parse_megatron_table(text: str, ranks: int | None = None) -> Schedule:
    """Read Megatron's schedule table, or the orders of all ranks that it makes of one.

    Parameters
    ----------
    text
        One of: the printed table, with the rows ``microbatch_id | 0 1 …`` and ``model_chunk_id | 0 0 …``; a list of
        pairs ``[(microbatch_id, model_chunk_id), …]``, as Python or JSON writes it; by rank a list of chunks, from 1,
        with a sign. A line ``pipeline_model_parallel_size = 4`` may stand above.
    ranks
        Of the pipeline, where the text does not say it. A schedule table does not have it; orders have one a rank.

    Raises
    ------
    InputError
        With row and column (both from 1, the numbers of a line counted) of every fault (the first 20), or if the number
        of ranks is not known.
    """
    size = MEGATRON_SIZE.search(text)
    if size:
        ranks, text = int(size[1]), f"{text[: size.start()]}{text[size.end() :]}"
    faults: list[Fault] = []
    lists = list(_named_lists(text, faults) if MEGATRON_ROW.search(text) else _lists(text, faults))
    if faults:
        raise InputError(up_to_most(faults))
    if not any(lists):
        raise InputError(Fault("", "there is no number in it", "such as [(0, 0), (1, 0), (0, 1), (1, 1)]"))
    if any(cell.value == 0 for cell in chain(*lists)):
        return _of_table(lists, ranks)
    return _of_orders(lists)


def _lists(text: str, faults: list[Fault]) -> Iterator[_List]:
    """Yield the lists of a text that have no list in them; where no bracket stands, each line is one."""
    found: _List = []
    depth = labels = 0
    for row, line in enumerate(text.splitlines(), 1):
        column = 0
        for token in _TOKEN.findall(line):
            label = _LABEL.fullmatch(token)
            if found and (label or token in _BRACKETS):
                yield found
                found = []
            depth += (token in ("[", "(")) - (token in ("]", ")"))
            if label:
                if int(label[1]) != labels:
                    faults.append(Fault(f"row {row}", f"{token!r}, where rank {labels} is expected", "a list a rank"))
                labels += 1
            elif token not in _BRACKETS and not token.endswith("="):
                column += 1
                found += _cells(token, row, column, faults)
        if found and depth <= 0:
            yield found
            found = []
        if len(faults) >= MAX_FAULTS:
            return
    if found:
        yield found


def _named_lists(text: str, faults: list[Fault]) -> Iterator[_List]:
    """Yield the pairs of a printed table."""
    rows: dict[str, _List] = {}
    for row, line in enumerate(text.splitlines(), 1):
        name, bar, numbers = (part.strip() for part in line.partition("|"))
        if name not in _NAMES or not bar or name in rows:
            if line.strip():
                found = f"{line.strip()[:60]!r}" if name not in rows else f"{name} stands twice"
                faults.append(Fault(f"row {row}", f"expected one of {', '.join(_NAMES)} and its numbers", found))
            continue
        cells = [_cells(token, row, column, faults) for column, token in enumerate(numbers.split(), 1)]
        rows[name] = list(chain(*cells))
    microbatches, chunks = rows.get(MICROBATCH_ROW, []), rows.get(CHUNK_ROW, [])
    if len(microbatches) != len(chunks) and not faults:
        message = f"{len(chunks)} numbers, where {MICROBATCH_ROW} has {len(microbatches)}"
        faults.append(Fault(f"row {chunks[0].row if chunks else 1} ({CHUNK_ROW})", message, "a number in each column"))
    yield from (list(pair) for pair in zip(microbatches, chunks, strict=False))


def _cells(token: str, row: int, column: int, faults: list[Fault]) -> _List:
    if _NUMBER.fullmatch(token):
        return [_Cell(int(token), row, column)]
    faults.append(Fault(f"row {row}, column {column}", f"expected a whole number, found {token[:60]!r}"))
    return []


def _of_table(pairs: list[_List], ranks: int | None) -> Schedule:
    """Return the schedule of a table of pairs of a micro-batch and a chunk, both from 0."""
    faults = [
        pair[0].fault(f"expected a micro-batch and a chunk, found {len(pair)} numbers")
        for pair in pairs
        if len(pair) != 2
    ]
    faults += [cell.fault(f"expected 0 or more, found {cell.value}") for cell in chain(*pairs) if cell.value < 0]
    if faults:
        raise InputError(up_to_most(faults))
    if ranks is None:
        raise InputError(
            Fault("", "a schedule table is the same on every rank, and does not say how many there are", _SAID)
        )
    table = [(microbatch.value, chunk.value) for microbatch, chunk in pairs]
    chunks = 1 + max(chunk for _, chunk in table)
    _check_sizes(pairs, ranks, chunks)
    forwards = [(chunk, microbatch, Kind.F) for microbatch, chunk in table]
    backwards = [(chunks - 1 - chunk, microbatch, Kind.B) for microbatch, chunk in table]
    rows = []
    for rank in range(ranks):
        first = min(_forwards_first(table, chunks, ranks - 1 - rank), len(table))
        both = chain(*zip(forwards[first:], backwards, strict=False))
        rows.append(_words(rank, ranks, [*forwards[:first], *both, *backwards[len(table) - first :]]))
    return Schedule(rows)


def _forwards_first(table: list[tuple[int, int]], chunks: int, behind: int) -> int:
    """Return how many forwards Megatron runs before the first backward on a rank with so many ranks behind it."""
    if chunks == 1:
        return behind
    group = next(place for place, (_, chunk) in enumerate(table) if chunk != table[0][1])
    return 2 * behind + (chunks - 1) * group


def _of_orders(lists: list[_List]) -> Schedule:
    """Return the schedule of a list of chunks a rank: from 1, negative for a backward, each of its next micro-batch."""
    ranks, chunks = len(lists), max(abs(cell.value) for cell in chain(*lists))
    _check_sizes(lists, ranks, chunks)
    rows = []
    for rank, cells in enumerate(lists):
        seen = Counter[int]()
        order = []
        for value in (cell.value for cell in cells):
            order.append((abs(value) - 1, seen[value], Kind.F if value > 0 else Kind.B))
            seen[value] += 1
        rows.append(_words(rank, ranks, order))
    return Schedule(rows)


def _words(rank: int, ranks: int, order: Sequence[tuple[int, int, Kind]]) -> Words:
    """Return the packed operations of a rank: chunk ``c`` on it is stage ``c * ranks + rank``."""
    rows = np.array(order, dtype=np.int64).reshape(-1, 3)
    return (rows[:, 0] * ranks + rank << STAGE_SHIFT) + rows[:, 1] + (rows[:, 2] << KIND_SHIFT)


def _check_sizes(lists: list[_List], ranks: int, chunks: int) -> None:
    """Refuse more ranks, stages or micro-batches than a schedule can have."""
    largest = max(chain(*lists), key=lambda cell: abs(cell.value))
    if not 1 <= ranks <= MAX_RANKS:
        raise InputError(Fault("", f"{ranks} ranks, where a schedule has 1 to {MAX_RANKS}"))
    if ranks * chunks > MAX_STAGES:
        raise InputError(largest.fault(f"{chunks} chunks on {ranks} ranks are more than {MAX_STAGES} stages"))
    if largest.value >= MAX_MICROBATCHES:
        raise InputError(largest.fault(f"micro-batches go up to {MAX_MICROBATCHES - 1}, found {largest.value}"))
