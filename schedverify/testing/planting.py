"""Rows of steps, and a planted fault as the rows that it changes."""

from __future__ import annotations

from typing import NamedTuple

from schedverify.core.op import Kind, Op, Step
from schedverify.core.schedule import Schedule

Row = list[Step]
Rows = list[Row]


class Mutation(NamedTuple):
    """A schedule with one fault: ``fault`` says which, ``code`` is the property that it must violate."""

    fault: str
    code: str
    schedule: Schedule


class Planted(NamedTuple):
    """A fault before its schedule is built: its name, its property, and the rows that it changes, by rank."""

    fault: str
    code: str
    changed: dict[int, Row]

    def within(self, rows: Rows) -> Mutation:
        """Return the schedule of these rows with the fault in it."""
        schedule = Schedule.of(self.changed.get(rank, row) for rank, row in enumerate(rows))
        return Mutation(self.fault, self.code, schedule)


def alone(kind: Kind, stage: int, microbatch: int | None) -> Step:
    """Return a step of one operation."""
    return Step((Op(kind, stage, microbatch),))


def place_of(row: Row, *ops: Op) -> int | None:
    """Return the first position whose step holds one of some operations."""
    return next((position for position, step in enumerate(row) if any(op in step.ops for op in ops)), None)


def inserted(row: Row, position: int, step: Step) -> Row:
    """Return a row with a step more, at a position."""
    return [*row[:position], step, *row[position:]]


def dropped(row: Row, position: int) -> Row:
    """Return a row without the step at a position."""
    return row[:position] + row[position + 1 :]


def moved(row: Row, position: int, to: int) -> Row:
    """Return a row with a step moved to an earlier position."""
    return inserted(dropped(row, position), to, row[position])


def swapped(row: Row, first: int, second: int) -> Row:
    """Return a row with two steps exchanged."""
    found = list(row)
    found[first], found[second] = row[second], row[first]
    return found
