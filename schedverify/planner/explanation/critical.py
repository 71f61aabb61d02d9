"""What decides how long a plan takes: a path of steps, or for the span a cycle of ranks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

from schedverify.core.ending import Check, go_on
from schedverify.core.explanation import CriticalWay, PathLink
from schedverify.core.result import Plan
from schedverify.simulator.engine import timed
from schedverify.verifier.graph import critical_path, dependency_graph, step_graph


def critical_path_of(plan: Plan, check: Check = go_on) -> tuple[PathLink, ...]:
    """Return the steps of a critical path of a plan's schedule, to where it ends.

    There is none where time does not count, or where the span does: that has a cycle.
    """
    timeless = plan.objective == "peak-memory" and plan.problem.makespan_limit is None
    if plan.schedule is None or plan.objective == "span" or timeless:
        return ()
    graph = dependency_graph(plan.problem, plan.schedule, check=check)
    return _links(step_graph(graph, check), critical_path(graph))


def critical_cycle_of(plan: Plan, check: Check = go_on) -> tuple[CriticalWay, ...]:
    """Return the ways of a cycle of ranks that a plan's span follows from; none where something else is minimized."""
    if plan.schedule is None or plan.objective != "span":
        return ()
    span = timed(plan.schedule, plan.problem)[2]
    graph = dependency_graph(plan.problem, plan.schedule, check=check)
    steps = step_graph(graph, check)
    step_at = {place: step for step in steps for op in step for place in graph.nodes[op]["places"]}
    lasts = [len(row) - 1 for row in plan.schedule.strings()]
    onward = (*span.cycle[1:], *span.cycle[:1])
    return tuple(
        CriticalWay(rank, to, ticks, _links(steps, _longest(steps, step_at[rank, 0], step_at[to, lasts[to]])))
        for rank, to, ticks in zip(span.cycle, onward, span.ways, strict=True)
    )


def _longest(steps: Any, first: Any, last: Any) -> list[Any]:
    """Return the steps of a longest path between two steps of a graph."""
    import networkx as nx

    latest: dict[Any, tuple[int, Any]] = {first: (0, None)}
    for step in nx.topological_sort(steps):
        for after, edge in steps.succ[step].items() if step in latest else ():
            start = latest[step][0] + steps.nodes[step]["duration"] + edge["lag"]
            if after not in latest or start > latest[after][0]:
                latest[after] = start, step
    path = [last]
    while path[-1] != first:
        path.append(latest[path[-1]][1])
    return path[::-1]


def _links(steps: Any, path: list[Any]) -> tuple[PathLink, ...]:
    """Return steps with why each waits for the one before it."""
    whys = ["", *(steps.edges[pair]["why"] for pair in pairwise(path))]
    return tuple(PathLink(_step_text(step), why) for step, why in zip(path, whys, strict=True))


def _step_text(step: tuple[Any, ...]) -> str:
    """Return a step as it stands in a schedule: one operation, or several that run as one."""
    return str(step[0]) if len(step) == 1 else f"({';'.join(map(str, step))})"
