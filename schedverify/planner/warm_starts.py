"""What a search begins with: the schedules of the families, judged, the best first."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress
from typing import Final, NamedTuple

from schedverify.core.ending import Check, OverError, go_on
from schedverify.core.errors import ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.result import FamilyResult, Report
from schedverify.core.timeline import Timeline
from schedverify.generators import families
from schedverify.optimizer import Effort, Hint, hint_of
from schedverify.planner.rivals import family_result
from schedverify.verifier.verification import verify

NEEDED: Final = ("SV1", "SV2", "SV4")
"""Beginnings of the codes of what a schedule that the search begins with must keep."""
_MANY_STEPS: Final = 60_000
"""With more operations the search begins with the best family alone, as each takes seconds to be taken up."""


class Candidate(NamedTuple):
    """The schedule of a family for a problem, and whether it keeps the problem's limits."""

    family: str
    timeline: Timeline
    report: Report

    @property
    def result(self) -> FamilyResult:
        """What a plan keeps of it."""
        return family_result(self.family, self.timeline, self.report)


def candidates(problem: Problem, check: Check = go_on) -> Iterator[Candidate]:
    """Yield the schedule of every family that suits the problem; a family may break the problem's limits."""
    for family in families():
        if family.suits(problem):
            report = verify(family.generate(problem, check), problem, select=(*NEEDED, "SV503"))
            yield Candidate(family.name, timeline_of(report), report)


def warm_starts(problem: Problem, objective: str, effort: Effort) -> tuple[list[Hint], tuple[FamilyResult, ...]]:
    """Return the starts of every family's schedule that keeps the limits, the best first, and every family's result.

    Of equal ones that with the least peak memory comes first, and of very many operations it is the only one. Once
    there are starts, what is left is not waited for when the search is over.
    """
    valid, results = list[Timeline](), list[FamilyResult]()

    def check() -> None:
        if effort.too_late_for_first(known=bool(valid)):
            raise OverError

    with suppress(OverError):
        for candidate in candidates(problem, check):
            results.append(candidate.result)
            valid += [candidate.timeline] if candidate.report.ok else []
            check()

    def worth(timeline: Timeline) -> tuple[int, list[int]]:
        return timeline.measures.value(objective) or 0, sorted(timeline.peak_memory, reverse=True)

    hints = []
    for timeline in sorted(valid, key=worth):
        hints.append(starts_of(timeline))
        if effort.over or len(timeline.schedule) > _MANY_STEPS:
            break
    return hints, tuple(results)


def starts_of(timeline: Timeline) -> Hint:
    """Return the schedule of a timeline and its starts, as the optimizer begins with them."""
    return hint_of(timeline.schedule, (row.tolist() for row in timeline.starts))


def timeline_of(report: Report) -> Timeline:
    """Return the timeline behind a report; raise what the verifier found where the schedule cannot run."""
    timeline = report.timeline
    if timeline is None:
        raise ScheduleError("\n".join(report.told))
    return timeline
