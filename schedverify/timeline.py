"""A schedule and its costs make a timeline: one linear sweep, every step as early as it can start."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from schedverify.errors import ScheduleError
from schedverify.memory import peak_in_flight, peak_memory
from schedverify.op import INDEX_MASK, KIND_MASK, KIND_SHIFT, MICROBATCH_MASK, STAGE_SHIFT, Kind, Op, unpack
from schedverify.problem import Problem
from schedverify.result import Measures, Timeline
from schedverify.schedule import Schedule, kinds, positions

_F, _B, _I, _W = map(int, (Kind.F, Kind.B, Kind.I, Kind.W))
_PENDING = -1
_ABSENT = -2


def simulate(schedule: Schedule, problem: Problem, *, excerpt: bool = False) -> Timeline:
    """Return the timeline that a schedule and a problem's costs imply (semantics, sections 2 and 5).

    Parameters
    ----------
    excerpt
        Whether operations that the order lacks count as done before it begins.

    Raises
    ------
    ScheduleError
        If the schedule is incomplete, has an operation that is not the problem's, or cannot run to its end; verify
        it to see all that is wrong.
    """
    check_runnable(schedule, problem, excerpt)
    starts, ends = _Sweep(schedule, problem).run()
    return Timeline(schedule, problem, starts, ends, _measures(schedule, problem, starts, ends, excerpt))


def duration(problem: Problem, ops: tuple[Op, ...]) -> int:
    """Return the ticks of a step: its operation's cost, or what the overlapped pair costs."""
    total = sum(op_duration(problem, int(op.kind), op.stage) for op in ops)
    if len(ops) == 1 or not problem.overlapped:
        return total
    pair = [op.stage for op in sorted(ops)]
    return problem.overlap_costs.get((pair[0], pair[1]), total)


def op_duration(problem: Problem, kind: int, stage: int) -> int:
    """Return the ticks of one operation; the backward of a recomputing stage pays its forward again."""
    if kind == _F:
        return problem.forward[stage]
    if kind == _W:
        return problem.backward_weight[stage]
    cost = problem.backward[stage] if kind == _B else problem.backward_input[stage]
    return cost + problem.forward[stage] if problem.recompute[stage] else cost


def check_runnable(schedule: Schedule, problem: Problem, excerpt: bool) -> None:
    """Raise a ScheduleError unless the schedule has the problem's operations, each once, on its stage's ranks."""
    if schedule.ranks != problem.ranks:
        raise ScheduleError(f"the schedule has {schedule.ranks} ranks, the problem {problem.ranks}")
    seen: dict[int, NDArray[np.int64]] = {}
    for rank, row in enumerate(schedule.rows):
        strangers = _strangers(row, problem, rank)
        if strangers.any():
            op = unpack(int(row[int(strangers.argmax())]))
            raise ScheduleError(f"{op} on rank {rank} is no operation of this problem's there; verify says more")
        for stage in problem.stages_of[rank]:
            seen[stage] = _counted(row, stage, problem, rank)
    if not excerpt:
        for stage, counts in seen.items():
            passing = np.fromiter(problem.replica_of, dtype=np.int64) == problem.copy_of(stage)
            if (lacking := passing & (counts == 0)).any():
                text = f"stage {stage} lacks operations of micro-batch {int(lacking.argmax())}"
                raise ScheduleError(f"{text}; verify says more")


def _strangers(row: NDArray[np.int64], problem: Problem, rank: int) -> NDArray[np.bool_]:
    """Mark the operations of a row that cannot stand there."""
    kind, stage, microbatch = kinds(row), row >> STAGE_SHIFT & INDEX_MASK, row & MICROBATCH_MASK
    known = np.zeros(32, dtype=bool)
    known[[int(Kind[letter]) for letter in problem.kinds]] = True
    here = np.zeros(INDEX_MASK + 1, dtype=bool)
    here[list(problem.stages_of[rank])] = True
    bad = ~known[kind] | ~here[stage] | (microbatch >= problem.microbatches)
    if problem.replicas > 1 and not bad.any():
        bad |= np.array(problem.replica_of)[microbatch] != stage // problem.stages
    return bad


def _counted(row: NDArray[np.int64], stage: int, problem: Problem, rank: int) -> NDArray[np.int64]:
    """Return by micro-batch whether all that a stage needs stands in a row; raise for what stands twice."""
    mine = row[row >> STAGE_SHIFT & INDEX_MASK == stage]
    counts = np.zeros((4, problem.microbatches), dtype=np.int64)
    np.add.at(counts, (kinds(mine), mine & MICROBATCH_MASK), 1)
    forward, fused, inputs, weights = counts
    twice = (counts > 1).any(axis=0) | (fused + np.maximum(inputs, weights) > 1)
    if twice.any():
        raise ScheduleError(f"rank {rank} runs an operation of stage {stage}, micro-batch {int(twice.argmax())} twice")
    if problem.form == "inference":
        return forward
    return forward & (fused | inputs & weights)


class _Sweep:
    """The state of one sweep: what is done, where each rank stands, who waits for what.

    ``done`` holds for every output the tick of its making: F of stage s and micro-batch m at ``s·M+m``, the gradient
    that B or I makes at ``(S+s)·M+m``.
    """

    def __init__(self, schedule: Schedule, problem: Problem) -> None:
        self.problem = problem
        self.schedule = schedule
        size = 2 * problem.total_stages * problem.microbatches
        done = np.full(size, _ABSENT, dtype=np.int64)
        for row in schedule.rows:
            done[self._outputs(row[kinds(row) < _W])] = _PENDING
        self.done: list[int] = done.tolist()
        self.waiting: dict[int, list[int]] = {}
        self.arrived: dict[int, list[tuple[int, int]]] = {}
        self.rows = [self._units(rank) for rank in range(schedule.ranks)]
        self.starts: list[list[int]] = [[] for _ in schedule.rows]
        self.ends: list[list[int]] = [[] for _ in schedule.rows]
        self.inputs: list[tuple[tuple[int, int], ...]] = []
        self.cost: list[int] = []
        self.makes: list[int] = []
        self._classes()

    def run(self) -> tuple[tuple[NDArray[np.int64], ...], tuple[NDArray[np.int64], ...]]:
        """Sweep until no rank can go on; raise where steps are left."""
        ready = list(range(len(self.rows)))
        while ready:
            ready += self._advance(ready.pop())
        for rank, (starts, steps) in enumerate(zip(self.starts, self.rows, strict=True)):
            if len(starts) < len(steps):
                raise ScheduleError(
                    f"rank {rank} waits for ever at position {len(starts)}; verify shows the cycle"
                )
        return tuple(map(_ticks, self.starts)), tuple(map(_ticks, self.ends))
