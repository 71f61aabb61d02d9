"""Orders as rows of plain operations: from start ticks, to earliest starts, to a Schedule; whether they keep limits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, partial
from itertools import chain
from typing import NamedTuple

from schedverify.core.errors import ScheduleError
from schedverify.core.op import Kind, Op
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.optimizer.tasks import Node, OpKey, Tasks, node_of
from schedverify.simulator.span import RankWindows, span_of

Rows = list[list[OpKey]]
"""For each rank its operations, in their order."""

Hint = dict[OpKey, int]
"""A start tick for each operation. Where two of one rank start together, they stand in the order of the mapping."""

Peaks = tuple[int, ...]
"""The most bytes that each rank holds, static ones included, the most first; of two, the lesser needs less memory.

Which rank holds what does not count. So what the fullest rank holds decides, then what the next one does, and so on.
"""


def hint_of(schedule: Schedule, starts: Iterable[Iterable[int]]) -> Hint:
    """Return the start of every operation of a schedule, from the starts of each rank's steps."""
    hint: Hint = {}
    for rank, ticks in enumerate(starts):
        for step, tick in zip(schedule.steps(rank), ticks, strict=True):
            for op in step.ops:
                hint[op.kind.name, op.stage, op.microbatch or 0] = int(tick)
    return hint


def rows_of(problem: Problem, starts: Mapping[OpKey, int]) -> Rows:
    """Return for each rank its operations by start; those that start together stay in the mapping's order."""
    rows: Rows = [[] for _ in range(problem.ranks)]
    for op in sorted(starts, key=starts.__getitem__):
        for rank in problem.placement[op[1]]:
            rows[rank].append(op)
    return rows


def complete(tasks: Tasks, starts: Mapping[OpKey, int]) -> bool:
    """Whether these are the operations of the problem: each step once, and a W for each I."""
    problem = tasks.problem
    for kind, stage, m in starts:
        if (kind, stage) not in tasks.duration or not 0 <= m < problem.microbatches or not problem.passes(stage, m):
            return False
        if kind == "I" and (("B", stage, m) in starts or ("W", stage, m) not in starts):
            return False
        if kind == "W" and ("I", stage, m) not in starts:
            return False
    count = Counter(kind for kind, _, _ in starts)
    return count["F"] == len(tasks.pairs) and count["B"] + count["I"] == len(tasks.pairs) * tasks.trains


def schedule_of(rows: Rows) -> Schedule:
    """Return the schedule with these orders."""
    return Schedule([Op(Kind[kind], stage, m).pack() for kind, stage, m in row] for row in rows)


def peaks_within_limits(tasks: Tasks, rows: Rows, starts: Mapping[OpKey, int] | None = None) -> Peaks | None:
    """Return the most bytes that the ranks hold, the most first; None where orders break a limit of the problem.

    Each rank has to stay within its bytes and its micro-batches in flight, and the whole within its makespan.
    ``starts`` are the earliest ones of these orders, where they are known.
    """
    peaks = []
    for rank, row in enumerate(rows):
        ledger = Ledger(tasks.problem, rank)
        for op in row:
            if not ledger.fits(op):
                return None
            ledger.run(op)
        peaks.append(tasks.problem.static[rank] + ledger.peak)
    limit = tasks.problem.makespan_limit
    if limit is not None and makespan_of(tasks, rows, starts) > limit:
        return None
    return falling(peaks)


def falling(peaks: Iterable[int]) -> Peaks:
    """Return bytes of ranks, the most first."""
    return tuple(sorted(peaks, reverse=True))


def earliest(tasks: Tasks, rows: Rows) -> dict[OpKey, int]:
    """Return the scaled start of every operation, as early as the orders and inputs allow.

    Raises
    ------
    ScheduleError
        If the orders cannot run to their end.
    """
    return _sweep(tasks, rows, [0] * len(rows))[0]


def tightest(tasks: Tasks, rows: Rows) -> tuple[int, dict[OpKey, int]]:
    """Return the span of orders, in ticks, and scaled starts that have it: first steps wait, and nothing else does.

    Parameters
    ----------
    tasks
        Those for the span.

    Raises
    ------
    ScheduleError
        If the orders cannot run to their end.
    """
    starts: dict[OpKey, int] = {}

    def sweep(release: Sequence[int]) -> RankWindows:
        nonlocal starts
        starts, origin = _sweep(tasks, rows, [tasks.scaled(ticks) for ticks in release])
        first = [tasks.ticks(starts[row[0]]) if row else 0 for row in rows]
        return RankWindows(first, [_end(tasks, starts, row) for row in rows], origin)

    span = span_of(sweep([0] * len(rows)), sweep).ticks
    return span, starts


def _end(tasks: Tasks, starts: Mapping[OpKey, int], row: Sequence[OpKey]) -> int:
    """Return the tick at which a rank's last step ends."""
    return tasks.ticks(starts[row[-1]] + tasks.duration[row[-1][:2]]) if row else 0


def _sweep(tasks: Tasks, rows: Rows, release: Sequence[int]) -> tuple[dict[OpKey, int], list[int]]:
    """Start every operation as early as it can, the first of each rank no earlier than its ``release``.

    Returns
    -------
    tuple
        The scaled starts, and by rank the rank from whose first step, started at its release, a longest path leads to
        the rank's last step; -1 for a rank without steps.
    """
    starts: dict[OpKey, int] = {}
    made: dict[Node, tuple[int, int]] = {}
    free = [(ticks, rank) for rank, ticks in enumerate(release)]
    position = [0] * len(rows)
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
        missing = next((before for before, _ in inputs if before not in made), None)
        if missing is not None:
            waiting.setdefault(missing, []).append(rank)
            continue
        arrivals = [(made[before][0] + lag, made[before][1]) for before, lag in inputs]
        starts[op], origin = max(arrivals + [free[r] for r in ranks])
        made[node] = starts[op] + tasks.duration[op[0], op[1]], origin
        for r in ranks:
            free[r] = made[node]
            position[r] += 1
        ready += [*ranks, *waiting.pop(node, ())]
    if any(position[rank] < len(row) for rank, row in enumerate(rows)):
        raise ScheduleError("these orders cannot run to their end")
    return starts, [origin if row else -1 for row, (_, origin) in zip(rows, free, strict=True)]


def makespan_of(tasks: Tasks, rows: Rows, starts: Mapping[OpKey, int] | None = None) -> int:
    """Return the makespan, in true ticks, of the timeline that the orders imply.

    ``starts`` are the earliest ones, where they are known.

    Raises
    ------
    ScheduleError
        If the orders cannot run to their end.
    """
    starts = earliest(tasks, rows) if starts is None else starts
    return max((_end(tasks, starts, row) for row in rows), default=0)


def measure(tasks: Tasks, rows: Rows, starts: Mapping[OpKey, int] | None = None) -> int:
    """Return the makespan or span of orders in true ticks, whichever the tasks are for.

    ``starts`` are the earliest ones of these orders, where they are known.

    Raises
    ------
    ScheduleError
        If the orders cannot run to their end.
    """
    return tightest(tasks, rows)[0] if tasks.objective == "span" else makespan_of(tasks, rows, starts)


def relabelled(tasks: Tasks, starts: Mapping[OpKey, int]) -> dict[OpKey, int]:
    """Return the same starts, with the k-th start of each stage, kind and part called the k-th micro-batch.

    Where a stage is mixed, the k-th B or I is the k-th gradient op, and the W of those that are I follow in order.
    """
    places: dict[OpKey, int] = {}
    for stage, lines in enumerate(tasks.fifo_lines):
        for line in lines:
            places |= _relabelled_line(starts, stage, line)
    return places


def _relabelled_line(starts: Mapping[OpKey, int], stage: int, line: tuple[int, ...]) -> dict[OpKey, int]:
    def sorted_starts(kinds: str) -> list[tuple[int, str]]:
        return sorted((starts[kind, stage, m], kind) for kind in kinds for m in line if (kind, stage, m) in starts)

    forwards = zip(line, sorted_starts("F"), strict=True)
    gradients = list(zip(line, sorted_starts("BI"), strict=False))
    stashing = [m for m, (_, kind) in gradients if kind == "I"]
    weights = zip(stashing, sorted_starts("W"), strict=True)
    return {(kind, stage, m): start for m, (start, kind) in chain(forwards, gradients, weights)}


class Footprint(NamedTuple):
    """What an operation does to its rank (semantics, SV401 and SV402).

    ``start_bytes`` and ``start_in_flight`` are what the rank holds more while it runs, ``net_bytes`` and
    ``net_in_flight`` what it holds more once it has ended.
    """

    start_bytes: int
    net_bytes: int
    start_in_flight: int
    net_in_flight: int


def footprint(problem: Problem, kind: str, stage: int) -> Footprint:
    """Return what an operation of a kind does to a rank of its stage."""
    kept, full, stash = problem.saved_activation_bytes[stage], problem.activation[stage], problem.weight_stash[stage]
    if problem.form == "inference":
        return Footprint(kept, 0, 1, 0)
    if kind == "F":
        return Footprint(kept, kept, 1, 1)
    if kind == "W":
        return Footprint(0, -stash, 0, 0)
    return Footprint(full - kept, (stash if kind == "I" else 0) - kept, 0, -1)


class Ledger:
    """What one rank holds while its steps run, against its limits; they run one by one, so the order alone counts.

    Attributes
    ----------
    room, limit
        The bytes beside the static ones, and the micro-batches in flight, that the rank may hold; None for no limit.
    bytes, in_flight, by_stage
        What it holds now: bytes beside the static ones, micro-batches in flight in all, and those of each stage.
    peak
        The most bytes beside the static ones that it has held.
    """

    def __init__(self, problem: Problem, rank: int) -> None:
        self.room = None if problem.capacity is None else problem.capacity[rank] - problem.static[rank]
        self.limit = None if problem.in_flight is None else problem.in_flight[rank]
        self.bytes = self.in_flight = self.peak = 0
        self.by_stage = dict.fromkeys(problem.stages_of[rank], 0)
        self._stage_limits = problem.in_flight_stage
        self._footprint = cache(partial(footprint, problem))

    def fits(self, op: OpKey) -> bool:
        """Whether a step could start now within all limits."""
        kind, stage, _ = op
        more = self._footprint(kind, stage)
        most = self._stage_limits
        return (
            (self.room is None or self.bytes + more.start_bytes <= self.room)
            and (self.limit is None or self.in_flight + more.start_in_flight <= self.limit)
            and (most is None or self.by_stage[stage] + more.start_in_flight <= most[stage])
        )

    def run(self, op: OpKey) -> None:
        """Enter a step from its start to its end."""
        kind, stage, _ = op
        more = self._footprint(kind, stage)
        self.peak = max(self.peak, self.bytes + more.start_bytes)
        self.bytes += more.net_bytes
        self.in_flight += more.net_in_flight
        self.by_stage[stage] += more.net_in_flight
