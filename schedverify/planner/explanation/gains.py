"""What one unit more would gain: the problem is changed in one place, and solved again."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from schedverify.core.explanation import Gain, PathLink
from schedverify.core.presentation import counted
from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.optimizer import Effort
from schedverify.planner.explanation.durations import MOST_DURATIONS, deciding_durations
from schedverify.planner.explanation.limits import FIELDS, UsedUpLimit, used_up_limits, with_limit
from schedverify.planner.plans import optimize


class Change(NamedTuple):
    """One change of a problem that can only make room, and a text that says what is changed."""

    text: str
    problem: Problem


def gains_of(plan: Plan, path: Sequence[PathLink], effort: Effort) -> tuple[tuple[Gain, ...], tuple[str, ...]]:
    """Return what each change would gain of the plan's objective, and what is left open.

    The plan's own schedule is valid after every change, so that a search begins with it. Each search gets the same
    share of the time that is left; what is not looked at is told.

    Parameters
    ----------
    path
        The steps that decide the time: a critical path, or all ways of a critical cycle.
    """
    changes, gains = list(changes_of(plan, path)), list[Gain]()
    for left, change in zip(range(len(changes), 0, -1), changes, strict=True):
        if effort.over:
            break
        again = optimize(
            change.problem,
            objective=plan.objective,
            time_limit=effort.part(1 / left).time_limit,
            seed=effort.seed,
            workers=effort.workers,
            solver_memory=effort.memory,
            hint=plan.schedule,
            stop=effort.stop,
        )
        value = plan.value or 0
        least = value if again.value is None else again.value
        gains.append(Gain(change.text, value - least, None if again.bound is None else value - again.bound))
    remarks = [] if all(gain.exact for gain in gains) else ["more time may make the gains exact"]
    if untried := len(changes) - len(gains):
        remarks.append(f"{counted(untried, 'more change')} not tried: {effort.why_over()}")
    return tuple(gains), tuple(remarks)


def changes_of(plan: Plan, path: Sequence[PathLink]) -> Iterator[Change]:
    """Yield one more of each limit that a plan uses up, then one tick less for what decides the time.

    These are the durations that the bound rests on, then the others of the critical path, the first
    :data:`~schedverify.planner.explanation.durations.MOST_DURATIONS` of them, and the latency of every link. Where the
    peak memory is minimized and the makespan has no limit, ticks do not count.
    """
    problem = plan.problem
    if plan.schedule is None or plan.measures is None:
        return
    for limit in used_up_limits(problem, plan.schedule, plan.measures):
        yield _relaxed(problem, limit)
    if plan.objective == "peak-memory" and problem.makespan_limit is None:
        return
    way = "critical cycle" if plan.objective == "span" else "critical path"
    for each in deciding_durations(problem, plan.certificate, path)[:MOST_DURATIONS]:
        stage, ticks = each.duration.stage, each.duration.ticks(problem)
        text = f"costs.{each.duration.key}[{stage}] {ticks} → {ticks - 1} ({each.text(way)})"
        yield Change(text, each.duration.shortened(problem))
    if any(ticks for row in problem.latency for ticks in row):
        latency = tuple(tuple(max(0, ticks - 1) for ticks in row) for row in problem.latency)
        yield Change("links.latency, one tick less on every link", replace(problem, latency=latency))


def _relaxed(problem: Problem, limit: UsedUpLimit) -> Change:
    """Return the change that admits one more activation, micro-batch or tick where a limit is used up."""
    more = limit.value + limit.step
    if limit.place is None:
        return Change(f"{limit.name} {limit.value} → {more}", with_limit(problem, limit.name, more))
    values = list(getattr(problem, FIELDS[limit.name]))
    values[limit.place] = more
    memory = limit.name == "memory.capacity"
    what = "one more activation" if memory else "one more in flight"
    what += f" on {'stage' if limit.name == 'limits.in_flight_stage' else 'rank'} {limit.place}"
    before, after = map(problem.units.given if memory and problem.unit else str, (limit.value, more))
    text = f"{limit.name}[{limit.place}] {before} → {after} ({what})"
    return Change(text, with_limit(problem, limit.name, tuple(values)))
