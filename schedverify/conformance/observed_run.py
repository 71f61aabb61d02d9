"""A run without a plan: which order ran, what its times say, and what the best order would take with them."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from statistics import median
from typing import TYPE_CHECKING, Any

from schedverify.conformance.bubble_causes import RankTime, data_of_ranks, lines_of_ranks, rank_times
from schedverify.conformance.dependency_check import ops_of
from schedverify.conformance.measured_costs import (
    Cost,
    bubble,
    costs,
    latency,
    line_of_makespan,
    lines_of_costs,
    makespans,
    measured_problem,
)
from schedverify.conformance.time_spent import TimeSpent, data_of_spent, lines_of, time_spent
from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InputError, UnsupportedError
from schedverify.core.presentation import counted
from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Timeline
from schedverify.core.trace import RunTrace, StepSpan
from schedverify.formats.outputs import search_data
from schedverify.generators import families
from schedverify.simulator.engine import simulate
from schedverify.verifier.infer_problem import deduce_problem

if TYPE_CHECKING:
    from schedverify.optimizer.incumbent import Progress


@dataclass(frozen=True)
class ObservedRun:
    """What a run shows of itself. Times are nanoseconds.

    Attributes
    ----------
    order
        The order of compute that ran, in most of the steps of training.
    family
        The family that it is, empty where it is none that is known.
    problem
        What it was for, with the measured costs and latencies in microseconds, and no more micro-batches in flight on
        a rank than the order that ran has.
    predicted
        The timeline of the order with these costs.
    makespans
        Of each step of training that ran the order, from the first start to the last end of what computes.
    bubble
        The idle share of all ranks over the makespan, in the median step of training.
    spent, ranks
        Where the time of that step went: along what each step waited for, and by rank.
    errors
        By rank, by how much its clock may be wrong.
    step
        What ran in the median step of training.
    remarks
        What was left out, or is not certain.
    """

    order: Schedule
    family: str
    problem: Problem
    predicted: Timeline
    makespans: tuple[int, ...]
    bubble: float
    costs: tuple[Cost, ...]
    latency: int
    errors: tuple[int, ...]
    spent: TimeSpent
    ranks: tuple[RankTime, ...]
    step: tuple[StepSpan, ...]
    remarks: tuple[str, ...]

    @property
    def measured(self) -> int:
        """The median makespan."""
        return round(median(self.makespans))


def observe(trace: RunTrace, remarks: tuple[str, ...] = ()) -> ObservedRun:
    """Return what a run shows of itself.

    Raises
    ------
    InputError
        If nothing in it computes.
    ScheduleError
        If its order cannot run.
    """
    check_types("observe", trace=(trace, RunTrace))
    rows = [_rows(step, trace.ranks) for step in trace.steps]
    (usual, ran), *others = Counter(rows).most_common() or [((), 0)]
    if not any(usual):
        raise InputError(Fault("traceEvents", "nothing that computes is in it", "a step of training is wanted"))
    if others:
        remarks += (f"{len(rows) - ran} of {len(rows)} steps of training ran another order; they count for nothing",)
    trace = replace(trace, steps=tuple(step for step, row in zip(trace.steps, rows, strict=True) if row == usual))
    order = Schedule.of(usual)
    plain = deduce_problem(order)
    problem = _within_its_flight(order, measured_problem(plain, trace))
    times = makespans(trace)
    number = sorted(range(len(times)), key=times.__getitem__)[len(times) // 2]
    middle = trace.steps[number]
    return ObservedRun(
        order, family_of(order, plain) or family_of(order, problem), problem, simulate(order, problem), tuple(times),
        bubble(middle, trace.ranks), tuple(costs(plain, trace)), latency(plain, trace), trace.errors,
        time_spent(plain, problem, number, middle), tuple(rank_times(plain, middle)), middle, remarks,
    )  # fmt: skip


def _rows(step: tuple[StepSpan, ...], ranks: int) -> tuple[tuple[str, ...], ...]:
    """Return the order of compute of each rank in a step of training."""
    rows: list[list[str]] = [[] for _ in range(ranks)]
    for ran in sorted(step, key=lambda ran: ran.position):
        if ops_of(ran.step)[0].kind.is_compute:
            rows[ran.rank].append(ran.step)
    return tuple(map(tuple, rows))


def _within_its_flight(order: Schedule, problem: Problem) -> Problem:
    """Return the problem with what the order has in flight on each rank as its limit."""
    data = problem.to_dict()
    data["limits"] = data.get("limits", {}) | {"in_flight": list(simulate(order, problem).peak_in_flight)}
    return Problem.of(data | {"name": "measured"})


def family_of(order: Schedule, problem: Problem) -> str:
    """Return the first family that gives just this order for a problem, the plainest last; empty where none does."""
    known = sorted(families(), key=lambda family: family.name == "naive")
    suited = (family for family in known if family.suits(problem))
    return next((family.name for family in suited if family.generate(problem) == order), "")


def best_of(
    run: ObservedRun, time_limit: float, progress: Callable[[Progress], None] | None = None,
    stop: threading.Event | None = None,
) -> Plan | None:  # fmt: skip
    """Return the best schedule that is found in some seconds, or None for a problem that cannot be optimized."""
    from schedverify.planner import plans

    search: dict[str, Any] = {"time_limit": time_limit, "progress": progress, "stop": stop}
    try:
        return plans.optimize(run.problem, hint=run.order, **search)
    except UnsupportedError:
        return None


def observed_lines(run: ObservedRun, best: Plan | None) -> Iterator[str]:
    """Yield what ``trace`` prints."""
    problem = run.problem
    shape = f"{counted(problem.ranks, 'rank')}, {counted(problem.total_stages, 'stage')}"
    microbatches = f"{problem.microbatches} micro-batch{'es' * (problem.microbatches != 1)}"
    yield f"{shape}, {microbatches}; {counted(len(run.makespans), 'step')} of training"
    yield f"the order that ran    {run.family or 'no known family'}"
    yield line_of_makespan(run.measured, run.predicted.makespan * 1000)
    yield from _best_lines(run, best)
    yield f"  bubble              {run.bubble:.4f}, predicted {float(run.predicted.bubble_fraction):.4f}"
    yield from lines_of_ranks(run.ranks)
    yield from lines_of(run.spent)
    yield from lines_of_costs(run.costs, run.latency, run.errors)


def _best_lines(run: ObservedRun, best: Plan | None) -> Iterator[str]:
    if best is None or best.value is None:
        return
    proved = "proved optimal" if best.status.value == "optimal" else "not proved optimal"
    if best.status.value != "optimal" and best.bound is not None:
        proved += f", no order takes less than {best.bound / 1000:.3f} ms"
    share = 1 - best.value / max(run.predicted.makespan, 1)
    yield f"  the best order      {best.value / 1000:.3f} ms, {share:.1%} less than predicted; {proved}"


def data_of_observed(run: ObservedRun, best: Plan | None) -> dict[str, Any]:
    """Return what ``trace --format json`` prints; times are nanoseconds, but those of ``best``: microseconds."""
    return {
        "family": run.family or None, "order": run.order.strings(), "placement": list(run.problem.owner_rank),
        "microbatches": run.problem.microbatches, "makespans": list(run.makespans), "measured": run.measured,
        "predicted": run.predicted.makespan * 1000, "bubble": run.bubble,
        "predicted_bubble": float(run.predicted.bubble_fraction), "ranks": data_of_ranks(run.ranks),
        "costs": [_cost_data(each) for each in run.costs], "latency": run.latency, "errors": list(run.errors),
        "spent": data_of_spent(run.spent), "best": None if best is None else search_data(best),
        "remarks": list(run.remarks),
    }  # fmt: skip


def _cost_data(cost: Cost) -> dict[str, Any]:
    data = cost._asdict() | {"kind": cost.kind.name}
    del data["planned"]
    return data
