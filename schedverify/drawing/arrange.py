"""Makes the panel of a picture: the rows and marks that show a schedule, its problem and a report on it."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Final, NamedTuple

import numpy as np

from schedverify.core.discipline import DEFAULT_DISCIPLINE
from schedverify.core.errors import InputError, ScheduleError
from schedverify.core.op import JOIN_SHIFT, Kind, pack_step
from schedverify.core.problem import Problem
from schedverify.core.result import Report, Violation
from schedverify.core.schedule import OPERATION_MASK, Schedule, Words, kinds, op_stages, positions
from schedverify.core.timeline import Timeline
from schedverify.core.units import Units
from schedverify.drawing.panel import PAIR, Panel, PanelRow
from schedverify.simulator.engine import simulate
from schedverify.verifier.infer_problem import REMARK, deduce_problem

MAX_ROWS: Final = 256
"""The most ranks in one picture."""
_WAITS: Final = ("SV201", "SV304")
"""The codes whose operations are all the steps of a wait cycle, to be marked together."""


class DrawnOrder(NamedTuple):
    """What is to be drawn: a schedule, its problem, and its timeline, or else the obstacle to having one."""

    schedule: Schedule
    problem: Problem | None
    timeline: Timeline | None
    remarks: tuple[str, ...] = ()
    obstacle: str = ""


def order_of(
    schedule: Schedule, problem: Problem | None, discipline: str = DEFAULT_DISCIPLINE, eager_bytes: int = 0
) -> DrawnOrder:
    """Return what can be drawn of a schedule: its timeline where it can run, else the order of its steps.

    Without a problem, one is read off the schedule, and a remark says so.
    """
    remarks: tuple[str, ...] = ()
    try:
        if problem is None:
            problem, remarks = deduce_problem(schedule), (REMARK,)
        timeline = simulate(schedule, problem, discipline=discipline, eager_bytes=eager_bytes)
        return DrawnOrder(schedule, problem, timeline, remarks)
    except (InputError, ScheduleError) as error:
        return DrawnOrder(schedule, problem, None, remarks, str(error))


def arrange(order: DrawnOrder, report: Report | None, title: str, *, critical: bool = False) -> Panel:
    """Return the panel of a schedule, with the violations of a report and, if asked for, the critical path."""
    schedule, problem, timeline = order[:3]
    violations = report.violations if report else ()
    marks, faults = _marks(schedule, violations)
    path = _critical(timeline) if critical and timeline and timeline.discipline is None else {}
    shown = range(min(schedule.ranks, MAX_ROWS))
    rows = tuple(_row(order, rank, dict(marks[rank]), frozenset(path.get(rank, ()))) for rank in shown)
    return Panel(
        title=title, timed=timeline is not None,
        unit=problem.tick if timeline is not None and problem is not None else "position",
        horizon=max(timeline.makespan if timeline else max(len(row.starts) for row in rows), 1),
        rows=rows, measures=timeline.measures if timeline else None,
        window=timeline.longest_window if timeline else 0, violations=violations,
        violation_count=report.violation_count if report else 0, faults=faults,
        remarks=_remarks(order, report), hidden=schedule.ranks - len(shown),
        units=problem.units if problem is not None else Units(),
    )  # fmt: skip


def _remarks(order: DrawnOrder, report: Report | None) -> tuple[str, ...]:
    """Return the remarks below a picture, one for each thing that a reader must know and that no violation says."""
    remarks = [*(report.remarks if report else ()), *order.remarks]
    if order.timeline is not None and order.timeline.discipline is not None:
        remarks.append(f"transfers are not drawn; they queue as under {order.timeline.discipline.value}")
    if order.obstacle:
        reason = "the schedule cannot run to its end as a whole" if report and report.violations else order.obstacle
        remarks.append(f"the order of the steps, without times: {reason}")
    return tuple(dict.fromkeys(remarks))


def _row(order: DrawnOrder, rank: int, marks: Mapping[int, tuple[int, ...]], critical: frozenset[int]) -> PanelRow:
    words = order.schedule.rows[rank]
    chunks = _chunks(words, order.problem, rank)
    if order.timeline is not None:
        starts, ends = order.timeline.starts[rank], order.timeline.ends[rank]
        return _computing(PanelRow(rank, words, starts, ends, chunks, marks, critical))
    places = np.arange(int((words >> JOIN_SHIFT == 0).sum()) + 1, dtype=np.int64)
    return PanelRow(rank, words, places[:-1], places[1:], chunks, marks)


def _computing(row: PanelRow) -> PanelRow:
    """Leave out the steps that do not compute: transfers run beside others. Their marks go to the step behind them."""
    computes = np.flatnonzero((row.kinds <= int(Kind.W)) | (row.kinds == PAIR))
    if len(computes) == len(row.starts):
        return row
    words = row.words[kinds(row.words) <= int(Kind.W)]
    marks: dict[int, tuple[int, ...]] = defaultdict(tuple)
    for position, numbers in row.marks.items():
        marks[min(int(np.searchsorted(computes, position)), max(len(computes) - 1, 0))] += numbers
    return PanelRow(row.rank, words, row.starts[computes], row.ends[computes], row.chunks, dict(marks))


def _critical(timeline: Timeline) -> dict[int, list[int]]:
    """Return by rank the positions of the steps on the critical path."""
    from schedverify.verifier.graph import critical_path, dependency_graph

    graph = dependency_graph(timeline.problem, timeline.schedule)
    found: dict[int, list[int]] = defaultdict(list)
    for step in critical_path(graph):
        for rank, position in {place for node in step for place in graph.nodes[node]["places"]}:
            found[rank].append(position)
    return found


def _chunks(words: Words, problem: Problem | None, rank: int) -> dict[int, int]:
    if problem is not None and rank < problem.ranks:
        stages = list(problem.stages_of[rank])
    else:
        stages = np.unique(op_stages(words)).tolist()
    return {stage: chunk for chunk, stage in enumerate(stages)}


def _marks(
    schedule: Schedule, violations: tuple[Violation, ...]
) -> tuple[dict[int, dict[int, tuple[int, ...]]], dict[int, tuple[int, ...]]]:
    """Return for each rank the numbers of its violations by position, and of those that have no position."""
    marks: dict[int, dict[int, tuple[int, ...]]] = defaultdict(lambda: defaultdict(tuple))
    faults: dict[int, tuple[int, ...]] = defaultdict(tuple)
    for number, violation in enumerate(violations, 1):
        places = _cycle(schedule, violation) if violation.code in _WAITS else []
        if violation.rank is not None and violation.position is not None:
            places.append((violation.rank, violation.position))
        elif violation.rank is not None:
            faults[violation.rank] += (number,)
        for rank, position in sorted(set(places)):
            marks[rank][position] += (number,)
    return marks, faults


def _cycle(schedule: Schedule, violation: Violation) -> list[tuple[int, int]]:
    """Return the steps that a wait cycle names, each as a pair of rank and position."""
    places: list[tuple[int, int]] = []
    for text in violation.operations:
        try:
            word = pack_step(text)[0]
        except InputError:
            continue
        for rank, row in enumerate(schedule.rows):
            found = row & OPERATION_MASK == word
            if found.any():
                places += [(rank, int(position)) for position in positions(row)[found]]
    return places
