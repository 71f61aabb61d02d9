"""Orders as rows of plain operations: from start ticks, to earliest starts, to a Schedule; whether they fit."""

from __future__ import annotations

from collections.abc import Mapping

from schedverify.core.errors import ScheduleError
from schedverify.core.op import Kind, Op
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.optimizer.heuristics.ledger import Ledger
from schedverify.optimizer.tasks import Node, Tasks, node_of
from schedverify.optimizer.values import OpKey

Rows = list[list[OpKey]]


def rows_of(problem: Problem, starts: Mapping[OpKey, int]) -> Rows:
    """Return for each rank its operations by start; those that start together stay in the mapping's order."""
    rows: Rows = [[] for _ in range(problem.ranks)]
    for op in sorted(starts, key=starts.__getitem__):
        for rank in problem.placement[op[1]]:
            rows[rank].append(op)
    return rows


def complete(tasks: Tasks, starts: Mapping[OpKey, int]) -> bool:
    """Whether these are the operations of the problem: each step once, and a W for each I."""
    nodes = {node_of(op) for op in starts}
    letters = "FG" if tasks.trains else "F"
    wanted = {(letter, stage, m) for stage, m in tasks.pairs for letter in letters}
    wanted |= {("W", stage, m) for kind, stage, m in starts if kind == "I"}
    return nodes == wanted and len(starts) == len(nodes) and all(op[:2] in tasks.duration for op in starts)


def schedule_of(rows: Rows) -> Schedule:
    """Return the schedule with these orders."""
    return Schedule([Op(Kind[kind], stage, m).pack() for kind, stage, m in row] for row in rows)


def keeps_limits(tasks: Tasks, rows: Rows) -> bool:
    """Whether every rank stays within its bytes and its micro-batches in flight, and the whole within its makespan."""
    for rank, row in enumerate(rows):
        ledger = Ledger(tasks.problem, rank)
        for op in row:
            if not ledger.fits(op):
                return False
            ledger.run(op)
    limit = tasks.problem.makespan_limit
    return limit is None or measure(tasks, rows, "makespan") <= limit


def earliest(tasks: Tasks, rows: Rows) -> dict[OpKey, int]:
    """Return the scaled start of every operation, as early as the orders and inputs allow.

    Raises
    ------
    ScheduleError
        If the orders cannot run to their end.
    """
    ends: dict[Node, int] = {}
    starts: dict[OpKey, int] = {}
    free, position = [0] * len(rows), [0] * len(rows)
    waiting: dict[Node, list[int]] = {}
    ready = list(range(len(rows)))
    while ready:
        rank = ready.pop()
        if position[rank] == len(rows[rank]):
            continue
        op = rows[rank][position[rank]]
        ranks = tasks.problem.placement[op[1]]
        if any(position[r] == len(rows[r]) or rows[r][position[r]] != op for r in ranks):
            continue
        node = node_of(op)
        inputs = list(tasks.inputs(node))
        missing = next((before for before, _ in inputs if before not in ends), None)
        if missing is not None:
            waiting.setdefault(missing, []).append(rank)
            continue
        start = max([free[r] for r in ranks] + [ends[before] + lag for before, lag in inputs])
        starts[op] = start
        ends[node] = start + tasks.duration[op[0], op[1]]
        for r in ranks:
            free[r] = ends[node]
            position[r] += 1
        ready += [*ranks, *waiting.pop(node, ())]
    if any(position[rank] < len(row) for rank, row in enumerate(rows)):
        raise ScheduleError("these orders cannot run to their end")
    return starts


def measure(tasks: Tasks, rows: Rows, objective: str) -> int:
    """Return the makespan or span, in true ticks, of the timeline that the orders imply.

    Raises
    ------
    ScheduleError
        If the orders cannot run to their end.
    """
    starts = earliest(tasks, rows)
    most = 0
    for row in rows:
        if row:
            last = row[-1]
            begun = tasks.ticks(starts[row[0]]) if objective == "span" else 0
            most = max(most, tasks.ticks(starts[last] + tasks.duration[last[0], last[1]]) - begun)
    return most


def relabelled(tasks: Tasks, starts: Mapping[OpKey, int]) -> dict[OpKey, int]:
    """Return the same starts, with the k-th start of each stage, kind and part called the k-th micro-batch.

    Where a stage is mixed, the k-th B or I is the k-th gradient op, and the W of those that are I follow in order.
    """
    places: dict[OpKey, int] = {}
    for stage, lines in enumerate(tasks.lines):
        for line in lines:
            _relabel_line(places, starts, stage, line)
    return places


def _relabel_line(places: dict[OpKey, int], starts: Mapping[OpKey, int], stage: int, line: tuple[int, ...]) -> None:
    def sorted_starts(kinds: str) -> list[tuple[int, str]]:
        return sorted((starts[kind, stage, m], kind) for kind in kinds for m in line if (kind, stage, m) in starts)

    for m, (start, kind) in zip(line, sorted_starts("F"), strict=True):
        places[kind, stage, m] = start
    gradients = sorted_starts("BI")
    for m, (start, kind) in zip(line, gradients, strict=False):
        places[kind, stage, m] = start
    stashing = [m for m, (_, kind) in zip(line, gradients, strict=False) if kind == "I"]
    for m, (start, kind) in zip(stashing, sorted_starts("W"), strict=True):
        places[kind, stage, m] = start
