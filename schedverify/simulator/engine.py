"""A schedule and its costs make a timeline: one linear sweep, every step as early as it can start."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from schedverify.core.argument_types import check_types
from schedverify.core.discipline import DEFAULT_DISCIPLINE, Discipline, check_eager_bytes
from schedverify.core.durations import step_duration
from schedverify.core.errors import ScheduleError
from schedverify.core.op import INDEX_MASK, JOIN_SHIFT, MICROBATCH_MASK, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words, kinds
from schedverify.core.timeline import Timeline
from schedverify.simulator.joint_steps import JointStep, joint_steps_of
from schedverify.simulator.metrics import measure
from schedverify.simulator.op_classes import class_facts, table
from schedverify.simulator.p2p_engine import simulate_lowered
from schedverify.simulator.preconditions import check_runnable
from schedverify.simulator.scale import is_large

Ticks = NDArray[np.int64]

_F, _W = int(Kind.F), int(Kind.W)
_PENDING = 1 << 70
_ABSENT = -_PENDING


def simulate(
    schedule: Schedule,
    problem: Problem,
    *,
    excerpt: bool = False,
    discipline: str = DEFAULT_DISCIPLINE,
    eager_bytes: int = 0,
) -> Timeline:
    """Return the timeline that a schedule and a problem's costs imply (semantics, sections 2, 4 and 5).

    Parameters
    ----------
    excerpt
        Whether operations that the order lacks count as done before it begins; not for lowered schedules.
    discipline
        What blocks what in a lowered schedule; in others transfers do not queue.
    eager_bytes
        Size up to which messages of a lowered schedule are eager.

    Raises
    ------
    ScheduleError
        If the schedule is incomplete, has an operation that is not the problem's, or cannot run to its end; verify
        it to see all that is wrong.
    UnknownNameError, InputError
        If there is no such discipline, or no such size.
    """
    check_types("simulate", schedule=(schedule, Schedule), problem=(problem, Problem))
    known = Discipline.of(discipline)
    check_eager_bytes(eager_bytes)
    if schedule.lowered and not excerpt:
        return simulate_lowered(schedule, problem, known, eager_bytes)
    check_runnable(schedule, problem, excerpt)
    large = is_large(len(schedule)) and _is_simple(schedule, problem)
    starts, ends = _compiled(schedule, problem) if large else _Sweep(schedule, problem).run()
    return Timeline(schedule, problem, starts, ends, measure(schedule, problem, starts, ends, excerpt=excerpt))


class _Sweep:
    """The state of one sweep: what is made, where each rank stands, who waits for what.

    ``made`` holds for every output the tick of its making: F of stage s and micro-batch m at ``s·M+m``, the gradient
    that B or I makes at ``(S+s)·M+m``, and last M places for W, which nobody reads. A class is an operation's kind
    and stage (and, with slices, whether it reads the part beside it); steps that take more than one operation or rank
    are meetings, numbered below zero. An output that is not made yet holds ``_PENDING``, plus 1 and the first rank that
    waits for it; ``crowd`` has the others.
    """

    def __init__(self, schedule: Schedule, problem: Problem) -> None:
        self.problem = problem
        made = np.full((2 * problem.total_stages + 1) * problem.microbatches, _ABSENT, dtype=object)
        for row in schedule.rows:
            made[_outputs(row, problem)] = _PENDING
        self.made: list[int] = made.tolist()
        self.crowd: dict[int, list[int]] = {}
        self.starts: list[list[int]] = [[] for _ in schedule.rows]
        self.ready: deque[int] = deque()
        self.classes: list[Words] = []
        self.microbatches: list[Words] = []
        self._number(schedule)

    def run(self) -> tuple[tuple[Ticks, ...], tuple[Ticks, ...]]:
        """Sweep until no rank can go on; raise where steps are left."""
        self._sweep()
        _check_ended([len(starts) for starts in self.starts], [len(steps) for steps in self.classes])
        begun = [np.array(row, dtype=np.int64) for row in self.starts]
        ended = [row + self._durations(rank) for rank, row in enumerate(begun)]
        return tuple(map(_frozen, begun)), tuple(map(_frozen, ended))

    def _sweep(self) -> None:
        """Run the steps of every rank, each until it must wait for an output, until none can go on."""
        ranks = [self._run_rank(rank) for rank in range(len(self.starts))]
        self.ready.extend(range(len(ranks)))
        while self.ready:
            next(ranks[self.ready.popleft()], None)

    def _run_rank(self, rank: int) -> Iterator[None]:
        """Run the steps of a rank; yield wherever it must wait, to be resumed once the output is made."""
        made, crowd, facts, ready, starts = self.made, self.crowd, self.facts, self.ready, self.starts[rank]
        now = 0
        for kind, m in self._steps(rank):
            if kind < 0:
                meeting = self.meetings[-1 - kind]
                while (start := self._meet(meeting, rank, now)) < 0:
                    yield
                starts.append(start)
                now = start + step_duration(self.problem, meeting.steps[rank])
                continue
            inputs, cost, output = facts[kind]
            while True:
                start = now
                for base, lag in inputs:
                    there = made[base + m] + lag
                    if there > start:  # noqa: PLR1730 - max() halves the speed
                        start = there
                if start < _PENDING:
                    break
                self._wait(rank, inputs, m)
                yield
            starts.append(start)
            now = start + cost
            slot = output + m
            waiter = made[slot] - _PENDING
            made[slot] = now
            if waiter > 0:
                ready.append(waiter - 1)
                if crowd:
                    ready += crowd.pop(slot, ())

    def _steps(self, rank: int) -> Iterator[tuple[int, int]]:
        """Return the class and the micro-batch of each step of a rank."""
        return zip(self.classes[rank].tolist(), self.microbatches[rank].tolist(), strict=True)

    def _durations(self, rank: int) -> Ticks:
        """Return the ticks of each step of a rank."""
        classes = self.classes[rank]
        ticks = np.array([cost for _, cost, _ in self.facts] or [0], dtype=np.int64)[np.maximum(classes, 0)]
        for position in np.flatnonzero(classes < 0).tolist():
            ops = self.meetings[-1 - int(classes[position])].steps[rank]
            ticks[position] = step_duration(self.problem, ops)
        return np.asarray(ticks)

    def _wait(self, rank: int, inputs: tuple[tuple[int, int], ...], m: int) -> None:
        """Queue a rank for the first of the inputs that is not made yet."""
        made = self.made
        for base, _ in inputs:
            slot = base + m
            if made[slot] >= _PENDING:
                if made[slot] == _PENDING:
                    made[slot] += rank + 1
                else:
                    self.crowd.setdefault(slot, []).append(rank)
                return

    def _number(self, schedule: Schedule) -> None:
        """Give every step its class and micro-batch, and every class its inputs, cost and output."""
        keys = [self._keys(row) for row in schedule.rows]
        known = np.unique(np.concatenate(keys))
        self.facts = [class_facts(key, self.problem) for key in known.tolist()]
        self.meetings, placed = joint_steps_of(schedule, self.problem)
        for rank, (key, row) in enumerate(zip(keys, schedule.rows, strict=True)):
            classes = np.searchsorted(known, key)
            for index, meeting in placed[rank].items():
                classes[index] = -1 - meeting
            first = row >> JOIN_SHIFT == 0
            self.classes.append(classes[first])
            self.microbatches.append((row & MICROBATCH_MASK)[first])

    def _keys(self, row: Words) -> Words:
        """Return kind and stage of each operation, and in the lowest bit whether it reads the part beside it."""
        key = (row >> STAGE_SHIFT & (1 << 37) - 1) << 1
        if self.problem.slices == 1:
            return key
        part = (row & MICROBATCH_MASK) % self.problem.slices
        last = self.problem.slices - 1
        return key | np.where(kinds(row) == _F, part > 0, (kinds(row) < _W) & (part < last))

    def _meet(self, meeting: JointStep, rank: int, now: int) -> int:
        """Take part in a meeting; return when it starts, or -1 where this rank must wait."""
        if meeting.start is None:
            meeting.arrived[rank] = now
            inputs = self._inputs_ready(meeting, rank) if len(meeting.arrived) == len(meeting.steps) else None
            if inputs is None:
                return -1
            meeting.start = max(inputs, *meeting.arrived.values())
            self.ready += [other for other in meeting.steps if other != rank]
            self._finish(meeting)
        return meeting.start

    def _inputs_ready(self, meeting: JointStep, rank: int) -> int | None:
        """Return when all inputs of a meeting are there, or None, having queued the rank, where one is not made."""
        latest = 0
        for word in meeting.words:
            m = word & MICROBATCH_MASK
            inputs = class_facts(int(self._keys(np.array([word]))[0]), self.problem)[0]
            there = max((self.made[base + m] + lag for base, lag in inputs), default=0)
            if there >= _PENDING:
                self._wait(rank, inputs, m)
                return None
            latest = max(latest, there)
        return latest

    def _finish(self, meeting: JointStep) -> None:
        """Make the outputs of a meeting: each at the end of the longest step that holds its operation."""
        ends: dict[int, int] = {}
        for ops in meeting.steps.values():
            end = (meeting.start or 0) + step_duration(self.problem, ops)
            for slot in _outputs(np.array([op.pack() for op in ops]), self.problem).tolist():
                ends[slot] = max(ends.get(slot, 0), end)
        for slot, end in ends.items():
            waiter = self.made[slot] - _PENDING
            self.made[slot] = end
            self.ready += [waiter - 1] if waiter > 0 else []
            self.ready += self.crowd.pop(slot, ())


def _is_simple(schedule: Schedule, problem: Problem) -> bool:
    """Whether every step of a schedule is one operation on one rank."""
    joint = any(len(ranks) > 1 for ranks in problem.placement)
    return not joint and all(int(row.max(initial=0)) >> JOIN_SHIFT == 0 for row in schedule.rows)


def _compiled(schedule: Schedule, problem: Problem) -> tuple[tuple[Ticks, ...], tuple[Ticks, ...]]:
    """Return what a sweep of single operations returns, by the compiled loop."""
    from schedverify.simulator import kernels

    counts = [len(row) for row in schedule.rows]
    bounds = np.cumsum([0, *counts])
    places = (2 * problem.total_stages + 1) * problem.microbatches
    starts, ends, done = kernels.sweep(np.concatenate(schedule.rows), bounds, table(problem), places)
    _check_ended(done.tolist(), counts)
    begun, ended = (tuple(map(_frozen, np.split(ticks, bounds[1:-1]))) for ticks in (starts, ends))
    return begun, ended


def _check_ended(done: list[int], steps: list[int]) -> None:
    """Raise where a rank has not come to the end of its steps."""
    for rank, (reached, count) in enumerate(zip(done, steps, strict=True)):
        if reached < count:
            text = f"rank {rank} waits at position {reached} for ever"
            raise ScheduleError(f"the schedule cannot run to its end: {text}; verify it to see the cycle")


def _outputs(row: Words, problem: Problem) -> Words:
    """Return where in ``made`` the outputs of a row's operations stand."""
    kind, total = kinds(row), problem.total_stages
    base = np.where(kind == _W, 2 * total, (row >> STAGE_SHIFT & INDEX_MASK) + np.where(kind == _F, 0, total))
    return np.asarray(base * problem.microbatches + (row & MICROBATCH_MASK), dtype=np.int64)


def _frozen(ticks: Ticks) -> Ticks:
    ticks.flags.writeable = False
    return ticks
