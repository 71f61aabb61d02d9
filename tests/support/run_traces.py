"""Runs as traces: of a plan that went exactly as it predicts, and changed."""

from __future__ import annotations

from collections.abc import Callable

import schedverify as sv
from schedverify.core.result import Plan
from schedverify.core.trace import RunTrace, StepSpan
from schedverify.formats.plan_files import digest, plan_data
from schedverify.planner.plans import plan_of

US = 1000


def a_plan(name: str = "zb-h1", **keys: object) -> Plan:
    problem = sv.Problem.chain(
        **{"ranks": 3, "microbatches": 4, "forward": 20, "backward_input": 18, "backward_weight": 11, "latency": 3,
           "tick": "us"} | keys
    )  # fmt: skip
    return plan_of(sv.generate(name, problem), problem)


def as_predicted(plan: Plan, steps: int = 1) -> RunTrace:
    """Return the trace of a run that goes exactly as the plan's own costs say, one tick a microsecond."""
    assert plan.lowered is not None
    how = {"discipline": plan.lowered.discipline, "eager_bytes": plan.lowered.eager_bytes}
    timeline = sv.simulate(plan.lowered.schedule, plan.problem, **how)
    length = (timeline.makespan + 100) * US
    trace = []
    for number in range(steps):
        rows = [
            StepSpan(rank, position, str(step), number * length + start * US, number * length + end * US)
            for rank in range(plan.problem.ranks)
            for position, (step, start, end) in enumerate(
                zip(
                    timeline.schedule.steps(rank),
                    timeline.starts[rank].tolist(),
                    timeline.ends[rank].tolist(),
                    strict=True,
                )
            )
        ]
        trace.append(tuple(rows))
    return RunTrace(digest(plan_data(plan)), plan.problem.ranks, tuple(trace), (0,) * plan.problem.ranks)


def changed(trace: RunTrace, change: Callable[[list[StepSpan]], None]) -> RunTrace:
    step = list(trace.steps[0])
    change(step)
    return RunTrace(trace.plan, trace.ranks, (tuple(step), *trace.steps[1:]), trace.errors)
