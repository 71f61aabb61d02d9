"""Random lowered schedules, safe and unsafe, made from the valid compute orders of :mod:`random_schedules`.

The test kit's ``lowered`` draws safe ones alone; here sends and receives wander as far as their tensors let them, so
that some hang, which is what timelines and oracle must agree on.
"""

from __future__ import annotations

import random

from oracle.lowered_times import read_any
from schedverify.core.schedule import Schedule
from schedverify.lowering import add_communication
from support.random_schedules import Base

Rows = list[list[str]]


def communicates(text: str) -> bool:
    return "SEND" in text or "RECV" in text


def lowered_rows(found: Base) -> Rows:
    """Return the default lowering of a valid compute order."""
    return add_communication(Schedule.of(found.rows), found.problem).strings()


def shuffled(rng: random.Random, rows: Rows) -> Rows:
    """Move some sends and receives, as far as they do not pass what makes or reads their tensor, and group some."""
    return [grouped(rng, moved(rng, row)) for row in rows]


def moved(rng: random.Random, row: list[str]) -> list[str]:
    row = list(row)
    for _ in range(rng.choice([0, 1, 1, 2, 4])):
        places = [place for place, text in enumerate(row) if communicates(text)]
        if not places:
            return row
        place = rng.choice(places)
        step = rng.choice([-1, 1])
        for _ in range(rng.randint(1, 4)):
            after = place + step
            if not 0 <= after < len(row) or tied(row[place], row[after]):
                break
            row[place], row[after] = row[after], row[place]
            place = after
    return row


def tied(transfer: str, other: str) -> bool:
    """Whether a compute step makes or reads the tensor of a send or receive (or might)."""
    op = read_any(transfer)[0]
    return not communicates(other) and any(
        (step.stage, step.microbatch) == (op.stage, op.microbatch) for step in read_any(other)
    )


def grouped(rng: random.Random, row: list[str]) -> list[str]:
    """Join some neighbouring sends and receives into groups."""
    density = rng.choice([0, 0, 0.3, 1])
    result: list[list[str]] = []
    for text in row:
        if result and communicates(text) and communicates(result[-1][-1]) and rng.random() < density:
            result[-1].append(text)
        else:
            result.append([text])
    return [f"[{';'.join(members)}]" if len(members) > 1 else members[0] for members in result]
