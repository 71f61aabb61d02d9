"""A schedule and its costs make a timeline: one linear sweep, every step as early as it can start."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

import numpy as np

from schedverify.core.argument_types import check_types
from schedverify.core.discipline import DEFAULT_DISCIPLINE, Discipline, check_eager_bytes
from schedverify.core.op import JOIN_SHIFT, MICROBATCH_MASK, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.problem.numbers import LARGEST
from schedverify.core.schedule import Schedule, Words, kinds, op_stages
from schedverify.core.timeline import Ticks, Timeline
from schedverify.simulator.compiled_sweep import CompiledSweep
from schedverify.simulator.csr_graph import is_large
from schedverify.simulator.joint_steps import JointStep, joint_steps_of
from schedverify.simulator.metrics import measure
from schedverify.simulator.op_classes import check_ended, check_runnable, describe_class, is_dense, places_of
from schedverify.simulator.span import BatchSpan, RankWindows, span_of

_F, _W = int(Kind.F), int(Kind.W)
_PENDING = 1 << 100
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
    starts, ends, span = timed(schedule, problem)
    measures = measure(schedule, problem, starts, ends, span.ticks, excerpt=excerpt)
    return Timeline(schedule, problem, starts, ends, measures)


def timed(schedule: Schedule, problem: Problem) -> tuple[tuple[Ticks, ...], tuple[Ticks, ...], BatchSpan]:
    """Return the earliest starts and ends of a schedule without communication, and its span."""
    dense = is_dense(len(schedule), places_of(problem))
    if not is_large(len(schedule)) or not dense or not is_simple(schedule, problem):
        plain = _Sweep(schedule, problem)
        starts, ends, windows = plain.earliest()
        return starts, ends, span_of(windows, plain.windows)
    compiled = CompiledSweep(schedule, problem)
    starts, ends, windows = compiled.earliest()

    def again(release: list[int]) -> RankWindows:
        """Sweep once more, by the plain loop where numbers could pass 64 bits."""
        return (compiled if max(release) < LARGEST else _Sweep(schedule, problem)).windows(release)

    return starts, ends, span_of(windows, again)


class _Sweep:
    """The state of one sweep: what is made, where each rank stands, who waits for what.

    ``made`` holds for every output when it is made, one after another; of two stages and three micro-batches, where
    rank 1 waits for the F of stage 0 and micro-batch 2:

    .. code-block:: text

        F of stage 0      F of stage 1      B, I of stage 0   B, I of stage 1   W, which nobody reads
        1   2   P+1+1     3   5   P         P   P   P         P   P   P         P   P   P
        0   1   2         3   4   5         6   7   8         9   10  11        12  13  14

    ``P`` is ``_PENDING``: not made yet, plus 1 and the number of the first rank that waits for it, if one does;
    ``more_waiters`` has the further ranks. What does not stand in the schedule at all, an excerpt, is ``_ABSENT``: done
    before it begins.

    A class is an operation's kind and stage (and, with slices, whether it reads the part beside it). A step of more
    than one operation, or on more than one rank, has the number of its joint step instead, counted down from -1.

    A time is a tick and, in the lowest ``shift`` bits, the rank to whose first step it goes back: to one that started
    as it was released and leads there by a longest path. So the latest of several times brings its rank along.
    """

    def __init__(self, schedule: Schedule, problem: Problem) -> None:
        self.problem, self.shift = problem, schedule.ranks.bit_length()
        self.unmade = _unmade(schedule, problem)
        self.classes: list[Words] = []
        self.microbatches: list[Words] = []
        self._number(schedule)

    def earliest(self) -> tuple[tuple[Ticks, ...], tuple[Ticks, ...], RankWindows]:
        """Return starts, ends and windows where every step starts as early as it can; raise where steps cannot run."""
        windows = self.windows([0] * len(self.classes))
        begun = tuple(np.array([time >> self.shift for time in row], dtype=np.int64) for row in self.starts)
        ends = tuple(row + self._durations(rank) for rank, row in enumerate(begun))
        return begun, ends, windows

    def windows(self, release: list[int]) -> RankWindows:
        """Run the steps of every rank, each until it must wait, until none can go on; raise where steps are left.

        The first step of each rank starts no earlier than its ``release``.
        """
        self.made, self.more_waiters = self.unmade.copy(), dict[int, list[int]]()
        self.starts: list[list[int]] = [[] for _ in self.classes]
        for joint in self.joint_steps:
            joint.arrived, joint.start = {}, None
        ranks = [self._run_rank(rank, least << self.shift | rank) for rank, least in enumerate(release)]
        self.ready = deque(range(len(ranks)))
        while self.ready:
            next(ranks[self.ready.popleft()], None)
        check_ended([len(starts) for starts in self.starts], [len(steps) for steps in self.classes])
        first = [row[0] >> self.shift if row else 0 for row in self.starts]
        last = [
            (row[-1] >> self.shift) + int(self._durations(rank, len(row) - 1)[0]) if row else 0
            for rank, row in enumerate(self.starts)
        ]
        return RankWindows(first, last, [row[-1] & (1 << self.shift) - 1 if row else -1 for row in self.starts])

    def _run_rank(self, rank: int, now: int) -> Iterator[None]:
        """Run the steps of a rank; yield wherever it must wait, to be resumed once the output is made."""
        made, more_waiters, op_classes = self.made, self.more_waiters, self.op_classes
        ready, starts = self.ready, self.starts[rank]
        for kind, m in zip(self.classes[rank].tolist(), self.microbatches[rank].tolist(), strict=True):
            if kind < 0:
                joint = self.joint_steps[-1 - kind]
                while (start := self._start_joint(joint, rank, now)) < 0:
                    yield
                starts.append(start)
                now = start + (self.problem.step_duration(joint.steps[rank]) << self.shift)
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

    def _durations(self, rank: int, since: int = 0) -> Ticks:
        """Return the ticks of each step of a rank, from a position on."""
        classes = self.classes[rank][since:]
        ticks = self.costs[np.maximum(classes, 0)]
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
        self.op_classes = [self._described(key) for key in known.tolist()]
        self.costs = np.array([cost >> self.shift for _, cost, _ in self.op_classes] or [0])
        self.joint_steps, placed = joint_steps_of(schedule, self.problem)
        for rank, (key, row) in enumerate(zip(keys, schedule.rows, strict=True)):
            classes = np.searchsorted(known, key)
            for index, number in placed[rank].items():
                classes[index] = -1 - number
            first = row >> JOIN_SHIFT == 0
            self.classes.append(classes[first])
            self.microbatches.append((row & MICROBATCH_MASK)[first])

    def _described(self, key: int) -> tuple[tuple[tuple[int, int], ...], int, int]:
        """Return what there is to know of a class, lags and cost as times."""
        inputs, cost, output = describe_class(key, self.problem)
        return tuple((base, lag << self.shift) for base, lag in inputs), cost << self.shift, output

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
        latest = -1
        for word in joint.words:
            m = word & MICROBATCH_MASK
            inputs = self._described(int(self._keys(np.array([word]))[0]))[0]
            arrival = max((self.made[base + m] + lag for base, lag in inputs), default=-1)
            if arrival >= _PENDING:
                self._wait(rank, inputs, m)
                return None
            latest = max(latest, arrival)
        return latest

    def _finish(self, joint: JointStep) -> None:
        """Make the outputs of a joint step: each at the end of the longest step that holds its operation."""
        ends: dict[int, int] = {}
        for ops in joint.steps.values():
            end = (joint.start or 0) + (self.problem.step_duration(ops) << self.shift)
            for slot in _outputs(np.array([op.pack() for op in ops]), self.problem).tolist():
                ends[slot] = max(ends.get(slot, 0), end)
        for slot, end in ends.items():
            waiter = self.made[slot] - _PENDING
            self.made[slot] = end
            self.ready += [waiter - 1] if waiter > 0 else []
            self.ready += self.more_waiters.pop(slot, ())


class _Few(dict[int, int]):
    """When outputs are made, where few of those that there could be stand in the schedule: the others are absent."""

    def __missing__(self, slot: int) -> int:
        return _ABSENT

    def copy(self) -> _Few:
        """Return a copy of the same kind."""
        return _Few(self)


def _unmade(schedule: Schedule, problem: Problem) -> list[int] | _Few:
    """Return when each output is made, before anything has run."""
    slots = [_outputs(row, problem) for row in schedule.rows]
    places = places_of(problem)
    if not is_dense(len(schedule), places):
        return _Few((slot, _PENDING) for row in slots for slot in row.tolist())
    unmade = np.full(places, _ABSENT, dtype=object)
    for row in slots:
        unmade[row] = _PENDING
    made: list[int] = unmade.tolist()
    return made


def is_simple(schedule: Schedule, problem: Problem) -> bool:
    """Whether every step of a schedule is one operation on one rank."""
    joint = any(len(ranks) > 1 for ranks in problem.placement)
    return not joint and all(int(row.max(initial=0)) >> JOIN_SHIFT == 0 for row in schedule.rows)


def _outputs(row: Words, problem: Problem) -> Words:
    """Return where in ``made`` the outputs of a row's operations stand."""
    kind, total = kinds(row), problem.total_stages
    base = np.where(kind == _W, 2 * total, op_stages(row) + np.where(kind == _F, 0, total))
    return np.asarray(base * problem.microbatches + (row & MICROBATCH_MASK), dtype=np.int64)
