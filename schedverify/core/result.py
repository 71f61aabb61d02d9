"""What is found out about a schedule: violations, and reports, which print themselves. Values only."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from schedverify.core.discipline import Communication
from schedverify.core.errors import ScheduleError, nearest, printable
from schedverify.core.plan import FamilyResult, Lowered, Part, Plan, SecondaryObjective
from schedverify.core.presentation import Line, Span, Tone, counted, html_of, table, text_of
from schedverify.core.timeline import Measures, Timeline, measures_table, window_note
from schedverify.core.units import Units
from schedverify.core.verdict import Scope, Status, Verdict, Verdicts

__all__ = [
    "LARGEST_KEPT_TIMELINE", "MOST_TOLD", "FamilyResult", "Lowered", "Part", "Plan", "PropertyResult", "Report",
    "Scope", "SecondaryObjective", "Status", "TimelineSource", "Verdict", "Verdicts", "Violation", "headline",
    "measures_lines", "properties_table", "summary",
]  # fmt: skip

LARGEST_KEPT_TIMELINE: Final = 1_000_000
"""Operations of a schedule: the timeline of a longer one is made anew each time that a report is asked for it."""
TimelineSource = Timeline | Callable[[], Timeline]
"""A timeline, or what makes it."""
MOST_TOLD: Final = 50
"""The most violations of a property that a report tells; the rest are counted."""
_TONES: Final = {Verdict.HOLDS: Tone.GOOD, Verdict.VIOLATED: Tone.BAD, Verdict.UNDECIDED: Tone.OPEN}


@dataclass(frozen=True)
class Violation:
    """One failure of a property: a sentence, where it happens, and a counterexample.

    ``position`` counts the steps of the rank's order from 0; both it and ``rank`` are None where there is no place.
    The first failure of a property that has a place has a ``picture``: lines with the steps around it and a mark.
    Of operations that lack, ``count`` says how many they are: a run of which ``operations`` names the first and the
    last. Else it is None.
    """

    code: str
    message: str
    rank: int | None = None
    position: int | None = None
    operations: tuple[str, ...] = ()
    counterexample: tuple[str, ...] = ()
    picture: tuple[str, ...] = field(default=(), repr=False, compare=False)
    count: int | None = None

    def __str__(self) -> str:
        return printable(f"{self.code} {self.message}")


@dataclass(frozen=True)
class PropertyResult:
    """The verdict on one property.

    ``violations`` are the first :data:`MOST_TOLD`, and ``more`` says how many there are beside them. ``reason`` says
    why where it is undecided or not applicable; ``remedy`` says what would make it applicable, or where it is violated
    what would cure it, as far as that is known.
    """

    code: str
    name: str
    verdict: Verdict
    scope: Scope
    violations: tuple[Violation, ...] = ()
    reason: str = ""
    remedy: str = ""
    more: int = 0

    @property
    def rest(self) -> str:
        """What is said of the violations that are not told; empty where all are."""
        return f"{self.code}: and {counted(self.more, 'more violation')}" if self.more else ""

    @property
    def told(self) -> tuple[str, ...]:
        """A line for each of its violations, and one for those that are only counted."""
        return (*map(str, self.violations), *([self.rest] if self.more else []))

    @property
    def why(self) -> str:
        """The reason, with the remedy where there is one."""
        return f"{self.reason} ({self.remedy})" if self.remedy else self.reason

    def __str__(self) -> str:
        return f"{self.code} {self.verdict}" + (f": {self.why}" if self.reason else "")


@dataclass(frozen=True)
class Report:
    """The verdicts on a schedule, the measures that follow from it, and what must be known to read them.

    ``measures`` is None where the schedule cannot run to its end as a whole, ``communication`` where SV304 was not
    judged; ``timeline_source`` is behind :attr:`timeline`; the measures are told in ``units``.
    """

    properties: tuple[PropertyResult, ...]
    measures: Measures | None = None
    remarks: tuple[str, ...] = ()
    communication: Communication | None = None
    timeline_source: TimelineSource | None = field(default=None, repr=False, compare=False)
    units: Units = field(default_factory=Units, repr=False, compare=False)

    @property
    def timeline(self) -> Timeline | None:
        """When every step starts and ends, as the verifier found it; None where ``measures`` is.

        That of a schedule with more than :data:`LARGEST_KEPT_TIMELINE` operations is not kept with the report, but made
        whenever it is asked for.
        """
        return self.timeline_source() if callable(self.timeline_source) else self.timeline_source

    @property
    def verdict(self) -> Verdict:
        """Violated if any property is, else undecided if any is, else holds; not applicable where none applies."""
        return Verdict.of_properties(result.verdict for result in self.properties)

    @property
    def ok(self) -> bool:
        """Whether the whole holds."""
        return self.verdict is Verdict.HOLDS

    @property
    def violations(self) -> tuple[Violation, ...]:
        """The violations of every property, the first :data:`MOST_TOLD` of each, in the order of the codes."""
        return tuple(violation for result in self.properties for violation in result.violations)

    @property
    def violation_count(self) -> int:
        """How many violations there are, those among them that are only counted."""
        return sum(len(result.violations) + result.more for result in self.properties)

    @property
    def told(self) -> tuple[str, ...]:
        """A line for each of :attr:`violations`, and behind those of each property one for what is only counted."""
        return tuple(line for result in self.properties for line in result.told)

    @property
    def unsettled(self) -> tuple[str, ...]:
        """What keeps the whole from holding without a violation, a line each.

        Each property that is undecided; where nothing that was selected applies, each with what would make it apply.
        """
        open_verdicts = {Verdict.UNDECIDED, self.verdict} - {Verdict.HOLDS, Verdict.VIOLATED}
        found = [each for each in self.properties if each.verdict in open_verdicts]
        return tuple(map(str, found)) if self.properties else ("no property was selected",)

    def raise_for_violations(self) -> None:
        """Raise a ScheduleError that tells the violations, where there are any."""
        if self.violations:
            raise ScheduleError("\n".join(self.told))

    def __getitem__(self, code: str) -> PropertyResult:
        """Return the result of one property, by its code: ``report["SV304"]``.

        Raises
        ------
        KeyError
            If the property was not judged.
        """
        known = {result.code: result for result in self.properties}
        if code not in known:
            hint = nearest(code, known) if isinstance(code, str) else ""
            raise KeyError(f"{code!r} was not judged" + (f"; {hint}" if hint else ""))
        return known[code]

    def __str__(self) -> str:
        return text_of(self._lines())

    def __repr__(self) -> str:
        failed = [result.code for result in self.properties if result.verdict is self.verdict]
        if self.verdict is Verdict.HOLDS:
            return f"<Report: holds, {len(self.properties)} properties>"
        violations = f"{counted(self.violation_count, 'violation')} of " if self.violations else ""
        return f"<Report: {self.verdict.value}, {violations}{', '.join(failed)}>"

    def _repr_html_(self) -> str:
        """Return the report as Jupyter shows it."""
        return html_of(self._lines())

    def _lines(self) -> Iterator[Line]:
        yield from headline(self)
        yield from summary(self)
        yield from ([Span(f"note: {remark}", Tone.FAINT)] for remark in self.remarks)
        yield from measures_lines(self)


def headline(report: Report, source: str = "") -> Iterator[Line]:
    """Yield the verdict (on ``source``) with the codes it is about, then every violation, then what stays open."""
    verdict = report.verdict
    begin = [Span(source), Span(": ")] if source else []
    codes = [] if verdict is Verdict.HOLDS else _codes_of(report, verdict)
    about = ranges(codes) if verdict is Verdict.NOT_APPLICABLE else ", ".join(codes)
    yield [*begin, Span(verdict.value, _TONES.get(verdict, Tone.FAINT)), Span(": " * bool(about) + about)]
    for result in report.properties:
        for violation in result.violations:
            yield [Span("  "), Span(violation.code, Tone.BAD), Span(f" {violation.message}")]
            yield from ([Span(f"    {line}")] for line in violation.picture)
        if result.more:
            yield [Span("  "), Span(result.rest, Tone.BAD)]
    for cure in dict.fromkeys(each.remedy for each in report.properties if each.violations and each.remedy):
        yield [Span("  cure: ", Tone.GOOD), Span(cure, Tone.COMMAND)]
    if verdict is Verdict.NOT_APPLICABLE and report.properties:
        yield from _why_not_applicable(report)
    else:
        yield from ([Span(f"  {line}")] for line in report.unsettled)


def summary(report: Report) -> Iterator[Line]:
    """Yield one line: what holds, for which durations, and how much is not applicable."""
    parts = []
    for scope in Scope:
        holding = [each for each in report.properties if each.verdict is Verdict.HOLDS and each.scope is scope]
        if holding:
            wide = "" if scope is Scope.AS_READ else "for "
            parts.append(f"{wide}{scope.value}: {ranges([each.code for each in holding])}")
    words = [f"holds {'; '.join(parts)}"] if parts else []
    absent = len(_codes_of(report, Verdict.NOT_APPLICABLE))
    if absent and report.verdict is not Verdict.NOT_APPLICABLE:
        words.append(f"not applicable: {absent} of {len(report.properties)}")
    if words:
        yield [Span(f"  {'; '.join(words)}", Tone.FAINT)]


def properties_table(report: Report, width: int | None = None) -> Iterator[Line]:
    """Yield a line for each property, with its scope, or the reason why it is open or not applicable."""
    rows = []
    for result in report.properties:
        why = result.why if report.verdict is Verdict.NOT_APPLICABLE else result.reason
        note = why or result.scope.value * (result.verdict is Verdict.HOLDS)
        verdict = Span(result.verdict.value, _TONES.get(result.verdict, Tone.FAINT))
        rows.append((Span(f"  {result.code}"), Span(result.name), verdict, Span(note, Tone.FAINT)))
    return table(rows, width) if rows else iter(())


def ranges(codes: Sequence[str]) -> str:
    """Return codes in a line, three or more that follow each other in number as a range: ``SV101 to SV104``."""
    runs: list[list[str]] = []
    for code in codes:
        if runs and code.startswith("SV") and runs[-1][-1] == f"SV{int(code[2:]) - 1}":
            runs[-1].append(code)
        else:
            runs.append([code])
    return ", ".join(f"{run[0]} to {run[-1]}" if len(run) > 2 else ", ".join(run) for run in runs)


def _codes_of(report: Report, verdict: Verdict) -> list[str]:
    return [result.code for result in report.properties if result.verdict is verdict]


def _why_not_applicable(report: Report) -> Iterator[Line]:
    """Yield for each reason the codes that are not applicable for it."""
    codes: dict[str, list[str]] = {}
    for result in report.properties:
        codes.setdefault(result.why, []).append(result.code)
    yield from ([Span(f"  {ranges(about)}: {why}")] for why, about in codes.items())


def measures_lines(report: Report, width: int | None = None) -> Iterator[Line]:
    """Yield under which discipline a schedule was judged, and its measures, where they are known."""
    if report.communication is not None:
        yield [Span(f"  {report.communication}")]
    if report.measures is not None:
        yield from measures_table(report.measures, report.units, width)
    if isinstance(report.timeline_source, Timeline):
        yield from window_note(report.timeline_source)
