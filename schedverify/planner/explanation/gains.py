"""What one unit more would gain: the problem is changed in one place, and solved again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from schedverify.core.explanation import Gain
from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.optimizer import Effort
from schedverify.planner.explanation.limits import FIELDS, Full, full_limits, with_limit
from schedverify.planner.plans import optimize


class Change(NamedTuple):
    """One change of a problem that can only make room, and how it is told."""

    told: str
    problem: Problem


def gains_of(plan: Plan, effort: Effort) -> tuple[tuple[Gain, ...], tuple[str, ...]]:
    """Return what each change would gain of the plan's objective, and what is left open.

    The plan's own schedule is valid after every change, so that a search begins with it. Each search gets the same
    share of the time that is left.
    """
    changes, gains = list(changes_of(plan)), []
    for left, change in zip(range(len(changes), 0, -1), changes, strict=True):
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
        found = value if again.value is None else again.value
        gains.append(Gain(change.told, value - found, None if again.bound is None else value - again.bound))
    remarks = () if all(gain.exact for gain in gains) else ("more time may make the gains exact",)
    return tuple(gains), remarks


def changes_of(plan: Plan) -> Iterator[Change]:
    """Yield one more of each limit that a plan uses up, then one tick less for what the time is made of.

    These are the longest operation of the busiest stage (of those, one that the bound rests on), and the latency of
    every link. Where the peak memory is minimized and the makespan has no limit, ticks do not count.
    """
    problem = plan.problem
    if plan.schedule is None or plan.measures is None:
        return
    for full in full_limits(problem, plan.schedule, plan.measures):
        yield _relaxed(problem, full)
    if plan.objective == "peak-memory" and problem.makespan_limit is None:
        return
    certificate = plan.certificate if plan.bound is not None else None
    yield from _quicker_stage(problem, _stages_of(problem, certificate or {}))
    if any(ticks for row in problem.latency for ticks in row):
        latency = tuple(tuple(max(0, ticks - 1) for ticks in row) for row in problem.latency)
        yield Change("links.latency, one tick less on every link", replace(problem, latency=latency))


def _relaxed(problem: Problem, full: Full) -> Change:
    more = full.given + full.step
    if full.place is None:
        return Change(f"{full.limit} {full.given} → {more}", with_limit(problem, full.limit, more))
    values = list(getattr(problem, FIELDS[full.limit]))
    values[full.place] = more
    what = "one more activation" if full.limit == "memory.capacity" else "one more in flight"
    told = f"{full.limit}[{full.place}] {full.given} → {more} ({what})"
    return Change(told, with_limit(problem, full.limit, tuple(values)))


def _stages_of(problem: Problem, certificate: Mapping[str, Any]) -> set[int]:
    """Return the stages whose load a bound rests on."""
    if certificate.get("rule") in ("load", "idle"):
        return set(problem.stages_of[certificate["rank"]])
    return {certificate["stages"][1]} if certificate.get("rule") == "pair" else {certificate.get("stage", -1)}


def _quicker_stage(problem: Problem, preferred: set[int]) -> Iterator[Change]:
    backward = {"fused": ["backward"], "split": ["backward_input", "backward_weight"]}
    parts = ["forward", *backward.get(problem.form, [])]

    def work(stage: int) -> int:
        count = problem.replica_of.count(problem.copy_of(stage))
        return count * sum(int(getattr(problem, part)[stage]) for part in parts)

    busiest = max(range(problem.total_stages), key=lambda stage: (work(stage), stage in preferred))
    longest = max(parts, key=lambda part: getattr(problem, part)[busiest])
    ticks = getattr(problem, longest)[busiest]
    if not ticks:
        return
    whole = problem.form == "split" and longest != "forward" and problem.backward[busiest]
    changed = [longest, "backward"] if whole else [longest]
    costs: dict[str, Any] = {part: _one_less(getattr(problem, part), busiest) for part in changed}
    yield Change(f"costs.{longest}[{busiest}] {ticks} → {ticks - 1} (the busiest stage)", replace(problem, **costs))


def _one_less(values: tuple[int, ...], place: int) -> tuple[int, ...]:
    return tuple(value - (i == place) for i, value in enumerate(values))
