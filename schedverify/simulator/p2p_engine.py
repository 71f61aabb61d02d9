"""When every step of a schedule with sends and receives starts and ends, under a discipline."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from schedverify.core.discipline import Discipline, check_eager_bytes
from schedverify.core.errors import ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Flags, IntArray, Schedule
from schedverify.core.timeline import Timeline
from schedverify.simulator.csr_graph import Precedence
from schedverify.simulator.joint_steps import NEVER_ENDS, SEE_THE_CYCLE
from schedverify.simulator.metrics import measure
from schedverify.simulator.p2p_events import Events
from schedverify.simulator.p2p_program import LoweredProgram, match
from schedverify.simulator.p2p_sweep import LoweredSweep
from schedverify.simulator.span import span_of


class LoweredRun(NamedTuple):
    """The events of a lowered schedule, and when each starts.

    Attributes
    ----------
    sweep
        What finds the starts, also where what computes first on a rank waits.
    start
        By node, the tick at which it starts; shape (nodes,).
    origin
        By node, the one at which a longest path to it begins; shape (nodes,).
    """

    program: LoweredProgram
    events: Events
    sweep: LoweredSweep
    start: IntArray
    origin: IntArray


def simulate_lowered(schedule: Schedule, problem: Problem, discipline: Discipline, eager_bytes: int) -> Timeline:
    """Return the timeline of a lowered schedule; see :func:`schedverify.simulator.engine.simulate`."""
    starts, ends, span = _times(run(schedule, problem, discipline, eager_bytes))  # all else of the run is free again
    measures = measure(schedule, problem, starts, ends, span)
    return Timeline(schedule, problem, starts, ends, measures, discipline, eager_bytes)


def _times(ran: LoweredRun) -> tuple[tuple[IntArray, ...], tuple[IntArray, ...], int]:
    """Return by rank start and end of every step, and the span."""
    ranks = ran.program.problem.ranks
    bounds = np.cumsum(np.bincount(ran.program.step_rank, minlength=ranks))[:-1]
    starts, ends = (tuple(np.split(ticks, bounds)) for ticks in _by_step(ran))
    return starts, ends, span_of(ran.sweep.windows_of(ran.start, ran.origin, [0] * ranks), ran.sweep.windows).ticks


def run(schedule: Schedule, problem: Problem, discipline: Discipline, eager_bytes: int) -> LoweredRun:
    """Work out when every event of a lowered schedule starts.

    Raises
    ------
    ScheduleError
        If operations or messages are missing or too many, or it cannot run to its end under the discipline.
    """
    check_eager_bytes(eager_bytes)
    program = LoweredProgram(schedule, problem)
    transfers = match(program, discipline)
    events = Events(program, transfers, discipline, eager_bytes)
    graph = Precedence(events.count, events.edges.tail, events.edges.head)
    if graph.blocked.any():
        raise ScheduleError(_blocked(program, events, graph.blocked))
    sweep = LoweredSweep(program, graph, events.edges.lag)
    return LoweredRun(program, events, sweep, *sweep.paths([0] * schedule.ranks))


def _by_step(ran: LoweredRun) -> tuple[IntArray, IntArray]:
    """Return start and end of every step.

    Those of transfers are from where they occupy their queue until they are complete, those of waits from where their
    rank comes to them until it goes on.
    """
    program, events, start = ran.program, ran.events, ran.start
    starts = start[program.node]
    ends = starts + program.duration
    complete = start[events.sends] + events.sent
    arrived = np.maximum(start[events.receives], start[events.sends] + events.done)
    silent = ~program.computes
    starts[silent], ends[silent] = np.iinfo(np.int64).max, 0
    np.minimum.at(starts, events.step, start[events.nodes])
    np.maximum.at(ends, events.step, np.concatenate((complete, arrived)))
    ends[program.waits] = start[program.node[program.waits]]
    idle = silent.copy()
    idle[program.step[events.ends]] = False
    if idle.any():
        holds = program.computes | program.waits | (events.discipline is Discipline.BLOCK)
        for row in np.split(np.arange(len(starts)), np.flatnonzero(np.diff(program.step_rank)) + 1):
            before = np.append(0, np.maximum.accumulate(np.where(holds[row], ends[row], 0))[:-1])[: len(row)]
            own, nothing = idle[row], idle[row] & ~program.waits[row]
            starts[row[own]], ends[row[nothing]] = before[own], before[nothing]
    return starts, ends


def _blocked(program: LoweredProgram, events: Events, blocked: Flags) -> str:
    computing = np.flatnonzero(program.computes & blocked[program.node])
    step = int(np.concatenate((computing, events.step[blocked[events.nodes]])).min())
    text = f"{program.text(step)} waits at {program.place(step)} for ever; {SEE_THE_CYCLE}"
    return f"{NEVER_ENDS} under {events.discipline.value}: {text}"
