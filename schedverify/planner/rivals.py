"""What stands beside a plan: families, the limits of the problem that they break, and which of them is the usual."""

from __future__ import annotations

import operator
from collections.abc import Iterator, Sequence

from schedverify.core.problem import Problem
from schedverify.core.result import FamilyResult, Report
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Measures, Timeline
from schedverify.generators import usual_family
from schedverify.simulator.metrics import peak_in_flight


def family_result(family: str, timeline: Timeline, report: Report) -> FamilyResult:
    """Return what a plan keeps of a family's schedule, given by its timeline and the verifier's report on it."""
    problem, measures, usual = timeline.problem, timeline.measures, usual_family(timeline.problem)
    return FamilyResult(
        family,
        measures,
        tuple(sorted({violation.code for violation in report.violations})),
        tuple(broken_limits(problem, timeline.schedule, measures)),
        usual is not None and usual.name == family,
    )


def broken_limits(problem: Problem, schedule: Schedule, measures: Measures) -> Iterator[str]:
    """Yield the key of each limit in a problem file that a compute order breaks."""
    most = problem.makespan_limit
    limits: dict[str, tuple[Sequence[int], Sequence[int] | None]] = {
        "memory.capacity": (measures.peak_memory, problem.capacity),
        "limits.in_flight": (measures.peak_in_flight, problem.in_flight),
        "limits.in_flight_stage": (in_flight_by_stage(problem, schedule), problem.in_flight_stage),
        "limits.makespan": ((measures.makespan,), None if most is None else (most,)),
    }
    for name, (used, allowed) in limits.items():
        if allowed is not None and any(map(operator.gt, used, allowed)):
            yield name


def in_flight_by_stage(problem: Problem, schedule: Schedule) -> list[int]:
    """Return for each stage the most micro-batches in flight on any of its ranks."""
    rows, places = schedule.rows, enumerate(problem.placement)
    return [max(peak_in_flight(rows[rank], problem, stage) for rank in ranks) for stage, ranks in places]
