"""What one unit more would gain: the problem is changed in one place, and solved again."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any, NamedTuple

from schedverify.core.explanation import Gain
from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.optimizer import Effort
from schedverify.planner.explanation.limits import FIELDS, UsedUpLimit, used_up_limits, with_limit
from schedverify.planner.plans import optimize


class Change(NamedTuple):
    """One change of a problem that can only make room, and a text that says what is changed."""

    text: str
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
        least = value if again.value is None else again.value
        gains.append(Gain(change.text, value - least, None if again.bound is None else value - again.bound))
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
    for limit in used_up_limits(problem, plan.schedule, plan.measures):
        yield _relaxed(problem, limit)
    if plan.objective == "peak-memory" and problem.makespan_limit is None:
        return
    certificate = plan.certificate if plan.bound is not None else None
    yield from _quicker_stage(problem, _stages_of(problem, certificate or {}))
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
    before, after = map(problem.units.given if memory and problem.unit else str, (limit.value, more))
    text = f"{limit.name}[{limit.place}] {before} → {after} ({what})"
    return Change(text, with_limit(problem, limit.name, tuple(values)))


def _stages_of(problem: Problem, certificate: Mapping[str, Any]) -> set[int]:
    """Return the stages whose load a bound rests on."""
    if certificate.get("rule") in ("load", "idle"):
        return set(problem.stages_of[certificate["rank"]])
    return {certificate["stages"][1]} if certificate.get("rule") == "pair" else {certificate.get("stage", -1)}


def _quicker_stage(problem: Problem, preferred: set[int]) -> Iterator[Change]:
    """Yield the change that takes one tick from the longest operation of the busiest stage, if it takes any."""
    backward = {"fused": ["backward"], "split": ["backward_input", "backward_weight"]}
    parts = ["forward", *backward.get(problem.form, [])]

    def work(stage: int) -> int:
        return problem.microbatch_counts[stage] * sum(int(getattr(problem, part)[stage]) for part in parts)

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
