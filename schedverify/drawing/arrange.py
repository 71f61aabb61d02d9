"""From a schedule, its problem and a report to what a picture shows of them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final

import numpy as np

from schedverify.drawing.panel import Panel, Row
from schedverify.errors import InputError, ScheduleError
from schedverify.op import INDEX_MASK, JOIN_SHIFT, STAGE_SHIFT, pack_step
from schedverify.problem import Problem
from schedverify.result import Report, Timeline, Violation
from schedverify.schedule import Schedule, Words, positions
from schedverify.timeline import simulate

MAX_ROWS: Final = 256
"""The most ranks in one picture."""
_WAITS: Final = "SV201"
"""The code whose operations are all the steps of a wait cycle, to be marked together."""


def arrange(schedule: Schedule, problem: Problem | None, report: Report | None, title: str) -> Panel:
    """Return the panel of a schedule: its timeline where it can run, else the order of its steps."""
    remarks = report.remarks if report else ()
    if problem is None:
        return _panel(schedule, None, None, report, title, (*remarks, "no problem is given: the order, without times"))
    try:
        timeline = simulate(schedule, problem)
    except ScheduleError as error:
        return _panel(schedule, problem, None, report, title, (*remarks, f"the order, without times: {error}"))
    return _panel(schedule, problem, timeline, report, title, remarks)


def panel_of(timeline: Timeline, report: Report | None, title: str) -> Panel:
    """Return the panel of a timeline that is known already."""
    remarks = report.remarks if report else ()
    return _panel(timeline.schedule, timeline.problem, timeline, report, title, remarks)


def _panel(
    schedule: Schedule,
    problem: Problem | None,
    timeline: Timeline | None,
    report: Report | None,
    title: str,
    remarks: tuple[str, ...],
) -> Panel:
    violations = report.violations if report else ()
    marks, faults = _marks(schedule, violations)
    shown = range(min(schedule.ranks, MAX_ROWS))
    rows = tuple(_row(schedule, problem, timeline, rank, dict(marks[rank])) for rank in shown)
    return Panel(
        title=title,
        timed=timeline is not None,
        unit=problem.tick if timeline is not None and problem is not None else "position",
        horizon=max([1, *(int(row.ends[-1]) for row in rows if len(row.ends))]),
        rows=rows,
        measures=timeline.measures if timeline else None,
        violations=violations,
        faults=faults,
        remarks=remarks,
        hidden=schedule.ranks - len(shown),
    )


def _row(
    schedule: Schedule,
    problem: Problem | None,
    timeline: Timeline | None,
    rank: int,
    marks: Mapping[int, tuple[int, ...]],
) -> Row:
    words = schedule.rows[rank]
    chunks = _chunks(words, problem, rank)
    if timeline is not None:
        return Row(rank, words, timeline.starts[rank], timeline.ends[rank], chunks, marks)
    places = np.arange(int((words >> JOIN_SHIFT == 0).sum()) + 1, dtype=np.int64)
    return Row(rank, words, places[:-1], places[1:], chunks, marks)


def _chunks(words: Words, problem: Problem | None, rank: int) -> dict[int, int]:
    if problem is not None and rank < problem.ranks:
        stages = list(problem.stages_of[rank])
    else:
        stages = np.unique(words >> STAGE_SHIFT & INDEX_MASK).tolist()
    return {stage: chunk for chunk, stage in enumerate(stages)}


def _marks(
    schedule: Schedule, violations: tuple[Violation, ...]
) -> tuple[dict[int, dict[int, tuple[int, ...]]], dict[int, tuple[int, ...]]]:
    """Return by rank the marks by position, and by rank the violations without a position."""
    marks: dict[int, dict[int, tuple[int, ...]]] = defaultdict(lambda: defaultdict(tuple))
    faults: dict[int, tuple[int, ...]] = defaultdict(tuple)
    for number, violation in enumerate(violations, 1):
        places = _cycle(schedule, violation) if violation.code == _WAITS else []
        if violation.rank is not None and violation.position is not None:
            places.append((violation.rank, violation.position))
        elif violation.rank is not None:
            faults[violation.rank] += (number,)
        for rank, position in sorted(set(places)):
            marks[rank][position] += (number,)
    return marks, faults


def _cycle(schedule: Schedule, violation: Violation) -> list[tuple[int, int]]:
    """Return where the steps stand that a wait cycle names."""
    places: list[tuple[int, int]] = []
    for text in violation.operations:
        try:
            word = pack_step(text)[0]
        except InputError:
            continue
        for rank, row in enumerate(schedule.rows):
            found = row & (1 << JOIN_SHIFT) - 1 == word
            if found.any():
                places += [(rank, int(position)) for position in positions(row)[found]]
    return places
