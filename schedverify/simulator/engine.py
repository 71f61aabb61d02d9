"""A schedule and its costs make a timeline: one linear sweep, every step as early as it can start."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from schedverify.core.argument_types import check_types
from schedverify.core.discipline import DEFAULT_DISCIPLINE, Discipline, check_eager_bytes
from schedverify.core.errors import ScheduleError
from schedverify.core.op import JOIN_SHIFT, MICROBATCH_MASK, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words, kinds, op_stages
from schedverify.core.timeline import Ticks, Timeline
from schedverify.simulator.csr_graph import is_large
from schedverify.simulator.joint_steps import NEVER_ENDS, SEE_THE_CYCLE, JointStep, joint_steps_of
from schedverify.simulator.metrics import measure
from schedverify.simulator.op_classes import check_runnable, class_table, describe_class

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
        from schedverify.simulator.p2p_engine import simulate_lowered

        return simulate_lowered(schedule, problem, known, eager_bytes)
    check_runnable(schedule, problem, excerpt)
    large = is_large(len(schedule)) and is_simple(schedule, problem)
    starts, ends = _compiled(schedule, problem) if large else _Sweep(schedule, problem).run()
    return Timeline(schedule, problem, starts, ends, measure(schedule, problem, starts, ends, excerpt=excerpt))


class _Sweep:
    """The state of one sweep: what is made, where each rank stands, who waits for what.

    ``made`` holds for every output the tick at which it is made, one after another; of two stages and three
    micro-batches, where rank 1 waits for the F of stage 0 and micro-batch 2:

    .. code-block:: text

        F of stage 0      F of stage 1      B, I of stage 0   B, I of stage 1   W, which nobody reads
        1   2   P+1+1     3   5   P         P   P   P         P   P   P         P   P   P
        0   1   2         3   4   5         6   7   8         9   10  11        12  13  14

    ``P`` is ``_PENDING``: not made yet, plus 1 and the number of the first rank that waits for it, if one does;
    ``more_waiters`` has the further ranks. What does not stand in the schedule at all, an excerpt, is ``_ABSENT``: done
    before it begins.

    A class is an operation's kind and stage (and, with slices, whether it reads the part beside it). A step of more
    than one operation, or on more than one rank, has the number of its joint step instead, counted down from -1.
    """

    def __init__(self, schedule: Schedule, problem: Problem) -> None:
        self.problem = problem
        made = np.full((2 * problem.total_stages + 1) * problem.microbatches, _ABSENT, dtype=object)
        for row in schedule.rows:
            made[_outputs(row, problem)] = _PENDING
        self.made: list[int] = made.tolist()
        self.more_waiters: dict[int, list[int]] = {}
        self.starts: list[list[int]] = [[] for _ in schedule.rows]
        self.ready: deque[int] = deque()
        self.classes: list[Words] = []
        self.microbatches: list[Words] = []
        self._number(schedule)

    def run(self) -> tuple[tuple[Ticks, ...], tuple[Ticks, ...]]:
        """Run the steps of every rank, each until it must wait, until none can go on; raise where steps are left."""
        ranks = [self._run_rank(rank) for rank in range(len(self.starts))]
        self.ready.extend(range(len(ranks)))
        while self.ready:
            next(ranks[self.ready.popleft()], None)
        _check_ended([len(starts) for starts in self.starts], [len(steps) for steps in self.classes])
        begun = tuple(np.array(row, dtype=np.int64) for row in self.starts)
        return begun, tuple(row + self._durations(rank) for rank, row in enumerate(begun))

    def _run_rank(self, rank: int) -> Iterator[None]:
        """Run the steps of a rank; yield wherever it must wait, to be resumed once the output is made."""
        made, more_waiters, op_classes = self.made, self.more_waiters, self.op_classes
        ready, starts = self.ready, self.starts[rank]
        now = 0
        for kind, m in zip(self.classes[rank].tolist(), self.microbatches[rank].tolist(), strict=True):
            if kind < 0:
                joint = self.joint_steps[-1 - kind]
                while (start := self._start_joint(joint, rank, now)) < 0:
                    yield
                starts.append(start)
                now = start + self.problem.step_duration(joint.steps[rank])
                continue
            inputs, cost, output = op_classes[kind]
            while True:
                start = now
                for base, lag in inputs:
                    arrival = made[base + m] + lag
                    if arrival > start:  # noqa: PLR1730 - max() halves the speed
                        start = arrival
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
                if more_waiters:
                    ready += more_waiters.pop(slot, ())

    def _durations(self, rank: int) -> Ticks:
        """Return the ticks of each step of a rank."""
        classes = self.classes[rank]
        ticks = np.array([cost for _, cost, _ in self.op_classes] or [0], dtype=np.int64)[np.maximum(classes, 0)]
        for position in np.flatnonzero(classes < 0).tolist():
            ops = self.joint_steps[-1 - int(classes[position])].steps[rank]
            ticks[position] = self.problem.step_duration(ops)
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
                    self.more_waiters.setdefault(slot, []).append(rank)
                return

    def _number(self, schedule: Schedule) -> None:
        """Give every step its class and micro-batch, and every class its inputs, cost and output."""
        keys = [self._keys(row) for row in schedule.rows]
        known = np.unique(np.concatenate(keys))
        self.op_classes = [describe_class(key, self.problem) for key in known.tolist()]
        self.joint_steps, placed = joint_steps_of(schedule, self.problem)
        for rank, (key, row) in enumerate(zip(keys, schedule.rows, strict=True)):
            classes = np.searchsorted(known, key)
            for index, number in placed[rank].items():
                classes[index] = -1 - number
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

    def _start_joint(self, joint: JointStep, rank: int, now: int) -> int:
        """Bring a rank to a joint step; return when that starts, or -1 where the rank must wait."""
        if joint.start is None:
            joint.arrived[rank] = now
            inputs = self._inputs_ready(joint, rank) if len(joint.arrived) == len(joint.steps) else None
            if inputs is None:
                return -1
            joint.start = max(inputs, *joint.arrived.values())
            self.ready += [other for other in joint.steps if other != rank]
            self._finish(joint)
        return joint.start

    def _inputs_ready(self, joint: JointStep, rank: int) -> int | None:
        """Return when all inputs of a joint step are there, or None, having queued the rank, where one is not made."""
        latest = 0
        for word in joint.words:
            m = word & MICROBATCH_MASK
            inputs = describe_class(int(self._keys(np.array([word]))[0]), self.problem)[0]
            arrival = max((self.made[base + m] + lag for base, lag in inputs), default=0)
            if arrival >= _PENDING:
                self._wait(rank, inputs, m)
                return None
            latest = max(latest, arrival)
        return latest

    def _finish(self, joint: JointStep) -> None:
        """Make the outputs of a joint step: each at the end of the longest step that holds its operation."""
        ends: dict[int, int] = {}
        for ops in joint.steps.values():
            end = (joint.start or 0) + self.problem.step_duration(ops)
            for slot in _outputs(np.array([op.pack() for op in ops]), self.problem).tolist():
                ends[slot] = max(ends.get(slot, 0), end)
        for slot, end in ends.items():
            waiter = self.made[slot] - _PENDING
            self.made[slot] = end
            self.ready += [waiter - 1] if waiter > 0 else []
            self.ready += self.more_waiters.pop(slot, ())


def is_simple(schedule: Schedule, problem: Problem) -> bool:
    """Whether every step of a schedule is one operation on one rank."""
    joint = any(len(ranks) > 1 for ranks in problem.placement)
    return not joint and all(int(row.max(initial=0)) >> JOIN_SHIFT == 0 for row in schedule.rows)


def _compiled(schedule: Schedule, problem: Problem) -> tuple[tuple[Ticks, ...], tuple[Ticks, ...]]:
    """Return what a sweep of single operations returns, by the compiled loop."""
    from schedverify.simulator import kernels

    counts = [len(row) for row in schedule.rows]
    bounds = np.cumsum([0, *counts])
    places = (2 * problem.total_stages + 1) * problem.microbatches
    starts, ends, done = kernels.sweep(np.concatenate(schedule.rows), bounds, class_table(problem), places)
    _check_ended(done.tolist(), counts)
    return tuple(np.split(starts, bounds[1:-1])), tuple(np.split(ends, bounds[1:-1]))


def _check_ended(done: list[int], steps: list[int]) -> None:
    """Raise where a rank has not come to the end of its steps."""
    for rank, (reached, count) in enumerate(zip(done, steps, strict=True)):
        if reached < count:
            raise ScheduleError(f"{NEVER_ENDS}: rank {rank} waits at position {reached} for ever; {SEE_THE_CYCLE}")


def _outputs(row: Words, problem: Problem) -> Words:
    """Return where in ``made`` the outputs of a row's operations stand."""
    kind, total = kinds(row), problem.total_stages
    base = np.where(kind == _W, 2 * total, op_stages(row) + np.where(kind == _F, 0, total))
    return np.asarray(base * problem.microbatches + (row & MICROBATCH_MASK), dtype=np.int64)
