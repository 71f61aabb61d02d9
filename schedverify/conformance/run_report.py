"""A run beside its plan: every departure, and measured times beside predicted ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

import numpy as np

from schedverify.conformance.bubble_causes import RankTime, data_of_ranks, rank_times
from schedverify.conformance.dependency_check import ops_of
from schedverify.conformance.measured_costs import Cost, bubble, costs, latency, makespans, measured_problem, tick_of
from schedverify.conformance.order_check import Departure, departures, peaks
from schedverify.conformance.time_spent import TimeSpent, data_of_spent, time_spent
from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.core.result import Lowered, Plan
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Timeline, longest_window
from schedverify.core.trace import RunTrace, StepSpan
from schedverify.core.units import Units
from schedverify.formats.plan_files import plan_digest
from schedverify.simulator.engine import simulate
from schedverify.simulator.metrics import measure


@dataclass(frozen=True)
class Conformance:
    """What a run shows of its plan. Times are nanoseconds.

    Attributes
    ----------
    departures
        Where the run did not follow the plan; empty where it did.
    makespans
        Of each step of training, from the first start to the last end of what computes.
    predicted
        The makespan that the plan has with the costs and the latency that were measured.
    planned
        The makespan that the plan states, where its tick is a unit of time; else None.
    bubble, planned_bubble
        The idle share of all ranks over the makespan: in the median step of training, and as the plan states it.
    peaks, allowed
        By rank, the most micro-batches in flight in any step of training, and the plan's.
    errors
        By rank, by how much its clock may be wrong.
    spent
        Where the time of the median step of training went.
    ranks
        By rank, what it computed in that step, and what it waited for.
    units
        How the planned costs are told.
    """

    departures: tuple[Departure, ...]
    makespans: tuple[int, ...]
    predicted: int
    planned: int | None
    bubble: float
    planned_bubble: float
    peaks: tuple[int, ...]
    allowed: tuple[int, ...]
    costs: tuple[Cost, ...]
    latency: int
    errors: tuple[int, ...]
    spent: TimeSpent
    ranks: tuple[RankTime, ...]
    units: Units

    @property
    def ok(self) -> bool:
        """Whether the run followed the plan."""
        return not self.departures

    @property
    def measured(self) -> int:
        """The median makespan."""
        return round(median(self.makespans))


def conform(plan: Plan, trace: RunTrace) -> Conformance:
    """Hold a run against its plan: against what follows from its order, not against the measures that it states.

    Raises
    ------
    InputError
        If the trace is of another plan or number of ranks, or holds no step of training, or the plan has no
        communication.
    ScheduleError
        If the plan's schedule cannot run.
    """
    check_types("conform", plan=(plan, Plan), trace=(trace, RunTrace))
    followed = _followed(plan, trace)
    order, problem = _order(followed), plan.problem
    planned = simulate(order, problem).measures
    allowed = planned.peak_in_flight
    found = departures(followed, problem, trace, allowed)
    again = measured_problem(problem, trace)
    if isinstance(followed, Lowered):
        how: dict[str, Any] = {"discipline": followed.discipline, "eager_bytes": followed.eager_bytes}
        predicted = simulate(followed.schedule, again, **how)
    else:
        predicted = simulate(order, again)
    tick, times = tick_of(problem), makespans(trace)
    number = sorted(range(len(times)), key=times.__getitem__)[len(times) // 2]
    middle = trace.steps[number]
    most = [peaks(problem, step) for step in trace.steps]
    return Conformance(
        departures=tuple(found), makespans=tuple(times), predicted=predicted.makespan * 1000,
        planned=None if tick is None else round(planned.makespan * tick),
        bubble=bubble(middle, trace.ranks), planned_bubble=float(planned.bubble_fraction),
        peaks=tuple(map(max, zip(*most, strict=True))), allowed=allowed, costs=tuple(costs(problem, trace)),
        latency=latency(problem, trace), errors=trace.errors, spent=time_spent(problem, again, number, middle),
        ranks=tuple(rank_times(problem, middle)), units=problem.units,
    )  # fmt: skip


def data_of(found: Conformance) -> dict[str, Any]:
    """Return what ``conform --format json`` prints; times are nanoseconds."""
    data = asdict(found)
    del data["units"]
    return data | {
        "ok": found.ok,
        "measured": found.measured,
        "departures": [each._asdict() for each in found.departures],
        "costs": [each._asdict() | {"kind": each.kind.name} for each in found.costs],
        "spent": data_of_spent(found.spent),
        "ranks": data_of_ranks(found.ranks),
    }


def timeline_of_run(plan: Plan, trace: RunTrace, step: int = -1) -> Timeline:
    """Return the timeline of what computed in one step of training, in microseconds; it can be drawn.

    Its span is the longest window as it ran: by how much first steps could have shortened it by waiting no run shows.

    Raises
    ------
    InputError
        If the trace is not one of the plan, or a compute step of the plan did not run in it.
    """
    check_types("timeline_of_run", plan=(plan, Plan), trace=(trace, RunTrace))
    return timeline_of_step(_order(_followed(plan, trace)), measured_problem(plan.problem, trace), trace.steps[step])


def timeline_of_step(schedule: Schedule, problem: Problem, step: Sequence[StepSpan]) -> Timeline:
    """Return the timeline of a step of training that ran an order of compute, in microseconds.

    Parameters
    ----------
    problem
        The one with the measured costs.
    """
    ran = {(each.rank, each.step): each for each in step if ops_of(each.step)[0].kind.is_compute}
    rows = schedule.strings()
    absent = [text for rank, row in enumerate(rows) for text in row if (rank, text) not in ran]
    if absent:
        raise InputError(Fault("traceEvents", f"{absent[0]} never ran", "a whole step of training is drawn"))
    first = min(each.start for each in ran.values())
    starts = tuple(np.array([(ran[rank, text].start - first) // 1000 for text in row]) for rank, row in enumerate(rows))
    ends = tuple(np.array([(ran[rank, text].end - first) // 1000 for text in row]) for rank, row in enumerate(rows))
    measures = measure(schedule, problem, starts, ends, longest_window(starts, ends))
    return Timeline(schedule, problem, starts, ends, measures)


def _followed(plan: Plan, trace: RunTrace) -> Lowered | Schedule:
    """Return what ran, once plan and trace belong together: of a runtime that is not ours the order of compute."""
    if trace.ranks != plan.problem.ranks:
        raise InputError(
            Fault("otherData.ranks" if trace.plan else "", f"{trace.ranks} ranks, the plan has {plan.problem.ranks}")
        )
    if not trace.steps or not any(trace.steps):
        raise InputError(Fault("traceEvents", "no step of training is in it", "run with --steps 1 or more"))
    if not trace.plan:
        if plan.schedule is None:
            raise InputError(Fault("schedule", "the plan holds no schedule", "give the plan that ran"))
        return plan.schedule.compute_only()
    if plan.lowered is None:
        raise InputError(Fault("lowered", "the plan holds no communication", "schedverify convert adds it"))
    if trace.plan != plan_digest(plan):
        found = f"the trace is of the plan {trace.plan[:12]}, this one is {plan_digest(plan)[:12]}"
        raise InputError(Fault("otherData.plan", found, "give the plan that ran"))
    return plan.lowered


def _order(followed: Lowered | Schedule) -> Schedule:
    """Return the order of compute alone."""
    return (followed.schedule if isinstance(followed, Lowered) else followed).compute_only()
