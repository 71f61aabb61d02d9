"""What is found out about a schedule: violations, reports, plans. Values only."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from fractions import Fraction
from typing import Any, Final, NamedTuple

from schedverify.core.discipline import Communication, Discipline
from schedverify.core.errors import ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Measures, Timeline

LARGEST_KEPT_TIMELINE: Final = 1_000_000
"""Operations of a schedule: the timeline of a longer one is made anew each time that a report is asked for it."""
TimelineSource = Timeline | Callable[[], Timeline]
"""A timeline, or what makes it."""


class Verdict(StrEnum):
    """What can be said of a property, and of a whole report."""

    HOLDS = "holds"
    VIOLATED = "violated"
    UNDECIDED = "undecided"
    NOT_APPLICABLE = "not applicable"


class Scope(StrEnum):
    """For what a verdict is valid."""

    EVERY_DURATION = "every duration"
    THESE_COSTS = "these costs"
    AS_READ = "as read from the file"


class Status(StrEnum):
    """How an optimization ended; these never fall together."""

    OPTIMAL = "optimal"
    FEASIBLE = "feasible"
    INFEASIBLE = "infeasible"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class Violation:
    """One failure of a property: a sentence, where it happens, and a counterexample.

    ``position`` counts the steps of the rank's order from 0; both it and ``rank`` are None where there is no place.
    """

    code: str
    message: str
    rank: int | None = None
    position: int | None = None
    operations: tuple[str, ...] = ()
    counterexample: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"{self.code} {self.message}"


@dataclass(frozen=True)
class PropertyResult:
    """The verdict on one property; ``reason`` says why where it is undecided or not applicable."""

    code: str
    name: str
    verdict: Verdict
    scope: Scope
    violations: tuple[Violation, ...] = ()
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """The verdicts on a schedule, the measures that follow from it, and what must be known to read them.

    ``measures`` is None where the schedule cannot run to its end as a whole, ``communication`` where SV304 was not
    judged; ``timeline_source`` is behind :attr:`timeline`.
    """

    properties: tuple[PropertyResult, ...]
    measures: Measures | None = None
    remarks: tuple[str, ...] = ()
    communication: Communication | None = None
    timeline_source: TimelineSource | None = field(default=None, repr=False, compare=False)

    @property
    def timeline(self) -> Timeline | None:
        """When every step starts and ends, as the verifier found it; None where ``measures`` is.

        That of a schedule with more than :data:`LARGEST_KEPT_TIMELINE` operations is not kept with the report, but made
        whenever it is asked for.
        """
        return self.timeline_source() if callable(self.timeline_source) else self.timeline_source

    @property
    def verdict(self) -> Verdict:
        """Violated if any property is, else undecided if any is, else holds."""
        found = {result.verdict for result in self.properties}
        return next((v for v in (Verdict.VIOLATED, Verdict.UNDECIDED) if v in found), Verdict.HOLDS)

    @property
    def ok(self) -> bool:
        """Whether the whole holds."""
        return self.verdict is Verdict.HOLDS

    @property
    def violations(self) -> tuple[Violation, ...]:
        """Every violation of every property, in the order of the codes."""
        return tuple(violation for result in self.properties for violation in result.violations)

    def raise_for_violations(self) -> None:
        """Raise a ScheduleError that tells every violation, where there is one."""
        if self.violations:
            raise ScheduleError("\n".join(map(str, self.violations)))

    def __getitem__(self, code: str) -> PropertyResult:
        for result in self.properties:
            if result.code == code:
                return result
        raise KeyError(code)


@dataclass(frozen=True)
class SecondaryObjective:
    """What was minimized behind the first objective: among the schedules that have no more of the first.

    Attributes
    ----------
    value, bound
        As in a :class:`Plan`; ``bound`` holds of every schedule whose first value is no greater than the plan's.
    certificate
        Evidence for ``bound``, under that ceiling.
    """

    objective: str
    value: int | None = None
    bound: int | None = None
    certificate: Mapping[str, Any] | None = field(default=None, hash=False)

    @property
    def gap(self) -> Fraction | None:
        """``(value - bound) / bound``; None where either is unknown or the bound is 0."""
        return _gap(self.value, self.bound)


@dataclass(frozen=True)
class Lowered:
    """A plan's schedule with the communication in it, what it is for, and its measures under that; see Timeline."""

    schedule: Schedule
    discipline: Discipline
    eager_bytes: int
    measures: Measures


class Part(NamedTuple):
    """What one part of a search left known: when it began, how long it took, the best value and the bound behind it.

    Seconds count from the begin of the search; ``value`` and ``bound`` are None where nothing was known.
    """

    name: str
    began: float
    seconds: float
    value: int | None
    bound: int | None


class FamilyResult(NamedTuple):
    """What the schedule of a family has of a problem: its measures, and the codes of the properties that it breaks."""

    family: str
    measures: Measures
    violated: tuple[str, ...]


@dataclass(frozen=True)
class Plan:
    """What an optimization found: a schedule with its value, the proved bound, and what was verified of both.

    Attributes
    ----------
    schedule
        None where the status is infeasible or unknown.
    starts
        For each rank the start of every step, in ticks.
    lowered
        The schedule with its communication; None where none that is known keeps the limits.
    value, bound
        The objective's value (None without a schedule) and what no schedule can go below (None where not known).
    certificate
        Evidence for ``bound`` that needs no solver: a mapping of plain values, or None.
    then
        The second objective, or None.
    verdicts
        Code and verdict of every property that was checked.
    partition
        The layers of each stage, or None.
    reason
        Why there is no schedule, or what is open.
    seconds
        How long the optimization took; not saved.
    parts
        What each part of the search left known, in their order; not saved.
    families
        What the families have that suit the problem, as far as the search began with them; not saved.
    """

    problem: Problem
    status: Status
    objective: str
    schedule: Schedule | None = None
    starts: tuple[tuple[int, ...], ...] = ()
    measures: Measures | None = None
    lowered: Lowered | None = None
    value: int | None = None
    bound: int | None = None
    certificate: Mapping[str, Any] | None = field(default=None, hash=False)
    then: SecondaryObjective | None = None
    verdicts: tuple[tuple[str, Verdict], ...] = ()
    seed: int = 0
    partition: tuple[tuple[str, ...], ...] | None = None
    reason: str = ""
    seconds: float = field(default=0.0, compare=False)
    parts: tuple[Part, ...] = field(default=(), compare=False)
    families: tuple[FamilyResult, ...] = field(default=(), compare=False)

    @property
    def gap(self) -> Fraction | None:
        """``(value - bound) / bound``; None where either is unknown or the bound is 0."""
        return _gap(self.value, self.bound)


def _gap(value: int | None, bound: int | None) -> Fraction | None:
    return None if value is None or not bound else Fraction(value - bound, bound)
