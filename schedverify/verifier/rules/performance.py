"""SV5: what is claimed of a schedule's performance is what follows from it, and its makespan is within the limit."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from typing import Any, Final, NamedTuple

import numpy as np

from schedverify.core.result import Scope, Violation
from schedverify.core.units import Units
from schedverify.verifier.claims import CLAIMABLE
from schedverify.verifier.rules.base import Case, NotApplicable, Undecided, rule

MEASURED: Final = ("makespan", "span", "peak-memory")


@rule("SV501", "claimed measures", Scope.THESE_COSTS)
def measures_as_claimed(case: Case) -> Iterator[Violation]:
    """A claimed makespan, span, bubble or peak is exactly what follows.

    What it checks

    Each measure that a plan claims (makespan, span, bubbles, work and peaks by rank) and the value of each of its
    objectives equal what the schedule and the problem's costs imply, to the tick, to the byte and to the exact
    fraction. The value of peak-memory is the most bytes that any rank holds, its static ones included. The second
    objective is another than the first. The timeline of a plan is the earliest one of its order, its lowered order is
    its schedule with communication, and each verdict that it lists, but that of SV501, is what follows under its own
    problem, discipline and eager bytes. What cannot be derived, such as a period, is undecided.

    Why it matters

    Plans are compared and chosen by these figures. A figure that does not follow from the schedule is a plan for
    another machine, or a slip of the pen.

    Example

    1F1B on four ranks with eight micro-batches, forward 1 and backward 2, has a makespan of 33; a plan that claims 32
    is refused.

    Formally

    For every claimed measure x: x = x(timeline), where the timeline starts every step as early as its rank, its inputs
    and the links allow; and so for a plan's timeline itself, and for the verdict on each code.
    """
    claimed = [(name, case.claims[name]) for name in CLAIMABLE if _is_claimed(case, name)]
    goals = [goal for goal in goals_of(case) if goal.value is not None]
    if not claimed and not goals and not case.claims.get("earliest"):
        raise NotApplicable("no measure is claimed", "a plan claims some, and claims= takes them")
    if len({goal.objective for goal in goals_of(case)}) < len(list(goals_of(case))):
        yield Violation("SV501", f"the second objective is claimed to be the {goals[-1].objective}, which is the first")
    if case.measures is None:
        raise Undecided("the schedule cannot run to its end as a whole, so no measure follows")
    figures = [(name, value, getattr(case.measures, name)) for name, value in claimed]
    measured = [goal for goal in goals if goal.objective in MEASURED]
    figures += [(f"{goal.objective} (value)", goal.value, case.measures.value(goal.objective)) for goal in measured]
    for name, value, follows in figures:
        if _plain(follows) != _plain(value):
            claims, has = (_told(case.problem.units, name, each) for each in (value, follows))
            yield Violation("SV501", f"{name} is claimed to be {claims}; what follows is {has}")
    yield from _later_than_needed(case)
    for goal in goals:
        if goal.objective not in MEASURED:
            raise Undecided(f"the {goal.objective} of a schedule is not derived here, so its value is open")


def _is_claimed(case: Case, name: str) -> bool:
    """Whether a measure is claimed; the bubble overhead may be claimed to be None, where no rank works at all."""
    return name in case.claims and (case.claims[name] is not None or name == "bubble_overhead")


def _later_than_needed(case: Case) -> Iterator[Violation]:
    """Yield the first start of each rank in a timeline that is claimed to be the earliest one, and is another."""
    rows, timeline = case.claims.get("timeline"), case.timeline
    if not case.claims.get("earliest") or rows is None or timeline is None:
        return
    if list(map(len, rows)) != list(map(len, timeline.starts)):
        return  # of which SV202 tells
    for rank, (claimed, follows) in enumerate(zip(rows, timeline.starts, strict=True)):
        wrong = np.flatnonzero(np.asarray(claimed, dtype=np.int64) != follows)
        if len(wrong):
            position = int(wrong[0])
            step, start = timeline.schedule.step(rank, position), int(follows[position])
            time = case.problem.units.time
            text = f"rank {rank}, position {position} ({step}) is claimed to start at {time(int(claimed[position]))}"
            yield Violation("SV501", f"{text}; in the earliest timeline it starts at {time(start)}", rank, position)


class Goal(NamedTuple):
    """What is claimed of one objective; ``ceiling`` is the first objective and its value, for the second."""

    objective: str
    value: Any
    bound: Any
    certificate: Any
    ceiling: tuple[str, int] | None = None


def goals_of(case: Case) -> Iterator[Goal]:
    """Yield what is claimed of the objective, and of the one behind it, whose ceiling is no less than what follows."""
    first = str(case.claims.get("objective") or case.problem.minimize)
    yield Goal(first, case.claims.get("value"), case.claims.get("bound"), case.claims.get("certificate"))
    then = case.claims.get("then")
    if then:
        most = None if case.measures is None else case.measures.value(first)
        ceiling = None if most is None else (first, max(most, case.claims.get("value") or 0))
        yield Goal(then["objective"], then.get("value"), then.get("bound"), then.get("certificate"), ceiling)


def _told(units: Units, name: str, value: Any) -> str:
    """Return a claimed figure to its last digit: times with their unit, sizes as numbers."""
    a_time = name.split(" ", maxsplit=1)[0] in ("makespan", "span")
    return units.time(value) if a_time and type(value) is int else str(value)


def _plain(value: Any) -> Any:
    """Return a measure in one form: a fraction may be written as text (``"1/5"``), figures by rank as any sequence."""
    if isinstance(value, str):
        try:
            return Fraction(value)
        except (ValueError, ZeroDivisionError):
            return value
    return list(value) if isinstance(value, tuple) else value


@rule("SV503", "makespan within its limit", Scope.THESE_COSTS)
def makespan_within_limit(case: Case) -> Iterator[Violation]:
    """The makespan stays within the problem's limit.

    What it checks

    Where the problem has `limits.makespan`, the makespan is no greater: that of the earliest timeline for a compute
    order, with the queues and waits of its communication for a lowered one, of both for a plan.

    Why it matters

    The limit is what peak memory is traded against, and what a step may take. A schedule that passes it is none of the
    problem's, however little memory it takes.

    Example

    1F1B on four ranks with eight micro-batches, forward 1 and backward 2, has a makespan of 33; under a limit of 32 it
    is refused.

    Formally

    max over steps of end(step) <= limits.makespan, in the earliest timeline.
    """
    limit = case.problem.makespan_limit
    if limit is None:
        raise NotApplicable("no makespan limit is given", "limits.makespan in the problem gives one")
    if case.measures is None:
        raise Undecided("the schedule cannot run to its end as a whole, so no makespan follows")
    if case.measures.makespan > limit:
        what = f"with its communication, under {case.discipline}," if case.schedule.lowered else "of the compute order"
        makespan, most = map(case.problem.units.time, (case.measures.makespan, limit))
        yield Violation("SV503", f"the makespan {what} is {makespan}, limits.makespan is {most}")
