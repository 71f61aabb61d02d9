"""What an optimization found: a plan, what is proved of it, and how it prints itself. Values only."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from functools import partial
from typing import Any, Final, NamedTuple

from schedverify.core.discipline import Discipline
from schedverify.core.presentation import Line, Span, Tone, html_of, picture_of, table, text_of
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Measures, figures_of
from schedverify.core.units import Units
from schedverify.core.verdict import Status, Verdict, Verdicts


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
        return relative_gap(self.value, self.bound)


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
    """What the schedule of a family has of a problem.

    Attributes
    ----------
    violated
        The codes of the properties that it violates.
    limits
        The limits of the problem that it breaks, as a problem file calls them.
    usual
        Whether it is the family that most would run on such a problem.
    """

    family: str
    measures: Measures
    violated: tuple[str, ...]
    limits: tuple[str, ...] = ()
    usual: bool = False

    @property
    def note(self) -> str:
        """What is wrong with it."""
        codes = ", ".join(self.violated)
        return f"breaks {', '.join(self.limits)} ({codes})" if self.limits else codes


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
        The verdict of every property that was checked, by its code.
    read
        Whether the plan was read from a file: then all of it is claimed, and nothing was verified here; not saved.
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
    verdicts: Mapping[str, Verdict] = Verdicts()
    seed: int = 0
    partition: tuple[tuple[str, ...], ...] | None = None
    reason: str = ""
    read: bool = field(default=False, compare=False)
    seconds: float = field(default=0.0, compare=False)
    parts: tuple[Part, ...] = field(default=(), compare=False)
    families: tuple[FamilyResult, ...] = field(default=(), compare=False)

    def __post_init__(self) -> None:
        if not isinstance(self.verdicts, Verdicts):
            object.__setattr__(self, "verdicts", Verdicts(self.verdicts))

    @property
    def gap(self) -> Fraction | None:
        """``(value - bound) / bound``; None where either is unknown or the bound is 0."""
        return relative_gap(self.value, self.bound)

    def __str__(self) -> str:
        return text_of(self._lines())

    def __repr__(self) -> str:
        value = f"{self.objective} {self.value}" if self.value is not None else self.objective
        order = "" if self.schedule is None else f", {self.schedule.ranks} ranks, {len(self.schedule)} operations"
        return f"<Plan: {self.status.value}, {value}{order}>"

    def _repr_html_(self) -> str:
        """Return the plan as Jupyter shows it: its picture, and what ``print`` tells."""
        return (picture_of(self) if self.schedule is not None else "") + html_of(self._lines())

    def _lines(self) -> Iterator[Line]:
        if self.schedule is not None:
            yield from plan_table(self)
        yield outcome_line(self)
        yield from ([Span(remark, Tone.FAINT)] for remark in plan_remarks(self))


_HEADINGS: Final = ("", "makespan", "span", "bubble", "span bubble", "peak in flight", "peak memory", "")


def plan_table(plan: Plan, width: int | None = None) -> Iterator[Line]:
    """Yield the measures of a plan, and below them those of its rivals."""
    right = [column for column, heading in enumerate(_HEADINGS) if heading and "peak" not in heading]
    rows = [tuple(Span(heading, Tone.STRONG) for heading in _HEADINGS)]
    others = rivals(plan)
    told = [known.measures for known in others] + ([plan.measures] if plan.measures is not None else [])
    figures = partial(_figures, units=plan.problem.units, beside=[size for each in told for size in each.peak_memory])
    if plan.measures is not None:
        rows.append(tuple(Span(cell, Tone.STRONG) for cell in ("this plan", *figures(plan.measures), "")))
    for known in others:
        rows.append(tuple(map(Span, (known.family, *figures(known.measures), known.note))))
    return table(rows, width, right) if len(rows) > 1 else iter(())


def rivals(plan: Plan) -> list[FamilyResult]:
    """Return the usual family for the problem, and the best that keeps its limits, where that is another.

    One micro-batch after another fits almost always, and nobody runs it to save time: it is no rival but for memory.
    """

    def worth(known: FamilyResult) -> tuple[int, list[int], bool]:
        peaks = sorted(known.measures.peak_memory, reverse=True)
        return known.measures.value(plan.objective) or 0, peaks, not known.usual

    valid = [known for known in plan.families if not known.violated]
    valid = [known for known in valid if known.family != "naive" or plan.objective == "peak-memory"]
    best = min(valid, key=worth, default=None)
    usual = [known for known in plan.families if known.usual]
    return usual if best is None or best in usual else [*usual, best]


def outcome_line(plan: Plan) -> Line:
    """Return how a search ended, its value and what is proved of it; or why there is no schedule."""
    claimed = Span("claimed to be " if plan.read else "")
    if plan.schedule is None:
        name = plan.problem.name or "the problem"
        reason = f" ({plan.reason})" if plan.reason else ""
        return [Span(name), Span(": "), claimed, Span(plan.status.value, Tone.BAD), Span(reason)]
    text = f": {_goal(plan, plan.problem.units)}"
    if plan.then is not None:
        text += f"; then {_goal(plan.then, plan.problem.units)}"
    return [claimed, Span(plan.status.value, Tone.BEST), Span(text)]


def plan_remarks(plan: Plan) -> Iterator[str]:
    """Yield what is open, how long the search took, what was verified, and the makespan with communication.

    Of a plan that was read, what it claims stands in place of what was verified.
    """
    holding = ", ".join(code for code, verdict in plan.verdicts.items() if verdict == Verdict.HOLDS)
    if plan.read:
        yield f"read from a file, nothing verified (sv.verify does it); said to hold: {holding or 'nothing'}"
    if plan.schedule is None:
        if plan.status is Status.INFEASIBLE and not plan.read:
            yield "verified: SV502" if "SV502" in holding else "SV502 is undecided: it is the solver's word"
        return
    if plan.reason:
        yield plan.reason
    if not plan.read:
        yield f"{plan.seconds:.1f} s, seed {plan.seed}; verified: {holding}"
    if plan.lowered is not None:
        makespan = plan.problem.units.time(plan.lowered.measures.makespan)
        yield f"with its communication, under {plan.lowered.discipline}: makespan {makespan}"


def _figures(measures: Measures, units: Units, beside: Sequence[int]) -> list[str]:
    return [figure for name, figure in figures_of(measures, units, beside).items() if name != "bubble overhead"]


def _goal(goal: Plan | SecondaryObjective, units: Units) -> str:
    """Return the value of an objective, and how far from the optimum it can still be."""
    value = goal.value if goal.value is None else units.value(goal.objective, goal.value)
    return f"{goal.objective} {value}, {_proof(goal, units)}"


def _proof(goal: Plan | SecondaryObjective, units: Units) -> str:
    if goal.gap:
        return f"at most {float(goal.gap):.2%} above the optimum"
    if goal.value is None or goal.bound is None or goal.bound < goal.value:
        return "no bound is known"
    return f"no schedule has less than {units.value(goal.objective, goal.bound)}"


def relative_gap(value: int | None, bound: int | None) -> Fraction | None:
    """Return ``(value - bound) / bound``; None where either is unknown or the bound is 0."""
    return None if value is None or not bound else Fraction(value - bound, bound)
