"""Puts a wait for each send, as late as the limits of sends and bytes allow and never where it can hang.

Source: PyTorch's ``torch.distributed.pipelining`` from 2.15 on, whose actions WAIT_SEND_F and WAIT_SEND_B these are.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np

from schedverify.core.argument_types import check_types
from schedverify.core.discipline import DEFAULT_DISCIPLINE, Discipline, check_eager_bytes
from schedverify.core.errors import ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words, step_bounds
from schedverify.lowering.send_limits import SendLimits
from schedverify.lowering.send_waits import refuse_waits, waits_for
from schedverify.simulator.joint_steps import NEVER_ENDS, SEE_THE_CYCLE
from schedverify.simulator.p2p_events import Events, Why
from schedverify.simulator.p2p_program import LoweredProgram, match

Placed = tuple[int, int]
"""A step before which a wait stands, and the number of the send that it is for."""


def add_late_waits(
    schedule: Schedule, problem: Problem, discipline: str = DEFAULT_DISCIPLINE, eager_bytes: int = 0
) -> Schedule:
    """Return a lowered schedule with a WAIT_SEND for each send, as late as its limits allow under a discipline.

    A wait stands at the end of its rank, or before the first step that breaks ``limits.outstanding_sends`` or the
    capacity without it: none can stand later by itself. What is free of deadlock under the discipline before is so
    after, and where any waits keep both limits without a deadlock, these do.

    Parameters
    ----------
    schedule
        With its communication and no waits.
    discipline, eager_bytes
        As in semantics, section 4.

    Returns
    -------
    Schedule
        Of two sends whose waits would do, that which is complete first in the timeline is waited for.

    Raises
    ------
    ScheduleError
        If no waits keep the limits without a deadlock; names the first rank and position that cannot be passed. Or if
        operations or messages are missing or too many.
    InputError
        If a WAIT_SEND stands in the schedule already.

    Notes
    -----
    Take a rank to stop before each step that some limit is about (a *gate*), until so many of its sends are complete
    that the limit is kept with the others alone. How many is a matter of its own order. What can happen in such a run
    stays possible until it does, as nothing that happens makes a send incomplete; so all such runs come equally far.

    If the run ends, each gate has enough sends that are complete. Waits for these, put there, let the same run pass:
    one run to the end proves that none hangs (semantics, section 4). If waits anywhere keep the limits and run to the
    end, then at each gate as many sends have been waited for, and so are complete: their run passes the gates too. So
    where this run is stuck, there are no such waits.
    """
    check_types("add_late_waits", schedule=(schedule, Schedule), problem=(problem, Problem))
    known = Discipline.of(discipline)
    check_eager_bytes(eager_bytes)
    refuse_waits(schedule)
    limits = [SendLimits(row, problem, rank) for rank, row in enumerate(schedule.rows)]
    steps = [own.asking() for own in limits]
    if not any(steps):
        return Schedule(_waiting(own, ()) for own in limits)
    program = LoweredProgram(Schedule(map(_with_gates, limits, steps)), problem)
    gates = [(rank, step) for rank, own in enumerate(steps) for step in own]
    run = _GatedRun(Events(program, match(program, known), known, eager_bytes), limits, gates)
    if not run.through():
        raise ScheduleError(_stuck(schedule, run, known))
    return Schedule(map(_waiting, limits, run.placed))


def _stuck(schedule: Schedule, run: _GatedRun, known: Discipline) -> str:
    """Say where a run stops."""
    if not run.closed:
        return f"{NEVER_ENDS} under {known}; {SEE_THE_CYCLE}"
    rank, step = run.closed[0]
    return (
        f"rank {rank}, position {step} ({schedule.step(rank, step)}): under {known} the sends before it that the "
        "limits of sends or bytes would have waited for are not complete without it"
    )


def _waiting(limits: SendLimits, placed: Sequence[Placed]) -> Words:
    """Return a row with the waits that were placed put in, and the others at its end."""
    row, waits = limits.row, waits_for(limits.row[limits.sends])
    steps, sends = np.array(placed, dtype=np.int64).reshape(-1, 2).T
    rest = np.setdiff1d(np.arange(len(waits)), sends)
    return np.concatenate((np.insert(row, step_bounds(row)[steps], waits[sends]), waits[rest]))


def _with_gates(limits: SendLimits, gates: Sequence[int]) -> Words:
    """Return a row with a wait at each gate; it stands for the gate, whichever send it names."""
    row = limits.row
    return np.insert(row, step_bounds(row)[gates], waits_for(row[limits.sends[:1]])) if gates else row


class _GatedRun:
    """One run, by time, of a lowered schedule in which ranks stop at gates until their limits are kept.

    A gate holds its rank's program as a WAIT_SEND does, but it is passed when enough sends are complete, whichever.

    Parameters
    ----------
    events, limits
        Of the schedule with gates; by rank, of its rows without.
    gates
        Rank and step of each gate, in the order of the waits that stand for them.
    """

    def __init__(self, events: Events, limits: Sequence[SendLimits], gates: Sequence[Placed]) -> None:
        self._limits, program = limits, events.program
        self._gates = dict(zip(np.flatnonzero(program.waits).tolist(), gates, strict=True))
        numbers = [number for own in limits for number in range(len(own.sends))]
        ranks = program.rank[events.transfers.send].tolist()
        self._sends = dict(
            zip(events.sends.tolist(), zip(ranks, numbers, events.sent.tolist(), strict=True), strict=True)
        )
        holds = events.edges.why != int(Why.COMPLETE)
        tail, head, lag = (part[holds] for part in (events.edges.tail, events.edges.head, events.edges.lag))
        order = np.argsort(tail, kind="stable")
        self._bounds = np.searchsorted(tail[order], np.arange(events.count + 1)).tolist()
        self._heads, self._lags = head[order].tolist(), lag[order].tolist()
        self._missing: list[int] = np.bincount(head, minlength=events.count).tolist()
        self._start = [0] * events.count
        self._heap: list[tuple[int, bool, int]] = []
        """What happens next: its tick, whether it is the start of a node or else the end of a send, and the node."""
        self._complete: list[list[int]] = [[] for _ in limits]
        """By rank, the sends that are complete, in their turn."""
        self._waiting: list[set[int]] = [set(range(len(own.sends))) for own in limits]
        """By rank, the sends that no gate has waited for."""
        self.placed: list[list[Placed]] = [[] for _ in limits]
        """By rank, the waits that were put at its gates."""
        self._closed: dict[int, int] = {}
        """By rank, the gate at which it stops."""

    @property
    def closed(self) -> list[Placed]:
        """Rank and step of the gates at which ranks stop."""
        return sorted(self._gates[node] for node in self._closed.values())

    def through(self) -> bool:
        """Run, and return whether it comes to the end; then ``placed`` has by rank the waits put at its gates."""
        for node, missing in enumerate(self._missing):
            if not missing:
                heappush(self._heap, (0, True, node))
        while self._heap:
            now, starts, node = heappop(self._heap)
            if starts:
                if node in self._gates and not self._passed(node):
                    self._closed[self._gates[node][0]] = node
                else:
                    self._start_of(node, now)
                continue
            rank, send, _ = self._sends[node]
            self._complete[rank].append(send)
            if rank in self._closed and self._passed(self._closed[rank]):
                self._start_of(self._closed.pop(rank), now)
        return not self._closed and not any(self._missing)

    def _start_of(self, node: int, now: int) -> None:
        if node in self._sends:
            heappush(self._heap, (now + self._sends[node][2], False, node))
        for edge in range(self._bounds[node], self._bounds[node + 1]):
            head = self._heads[edge]
            self._start[head] = max(self._start[head], now + self._lags[edge])
            self._missing[head] -= 1
            if not self._missing[head]:
                heappush(self._heap, (self._start[head], True, head))

    def _passed(self, node: int) -> bool:
        """Whether a gate can be passed; if so, wait there for the sends that it needs, the first complete first."""
        rank, step = self._gates[node]
        limits = self._limits[rank]
        held = {send for send in self._waiting[rank] if limits.position[send] < step}
        complete = [send for send in self._complete[rank] if send in held]
        if not limits.fits(step, held.difference(complete)):
            return False
        chosen: list[int] = []
        for send in complete:
            if limits.fits(step, held):
                break
            held.remove(send)
            chosen.append(send)
        for send in list(chosen):  # of unlike sizes, one that was chosen may be needed no more
            if limits.fits(step, held | {send}):
                held.add(send)
                chosen.remove(send)
        self._waiting[rank].difference_update(chosen)
        self.placed[rank] += [(step, send) for send in chosen]
        return True
