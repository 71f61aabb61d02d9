"""When the steps of a schedule start and end, and what is measured of that. Values only."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final, NamedTuple

import numpy as np

from schedverify.core.discipline import Discipline
from schedverify.core.op import JOIN_SHIFT, Kind, Op, Step, pack_step
from schedverify.core.presentation import Line, Span, Tone, html_of, picture_of, table, text_of
from schedverify.core.problem import Problem
from schedverify.core.schedule import OPERATION_MASK, IntArray, Schedule, kinds, positions
from schedverify.core.units import Units

Ticks = IntArray
"""Starts or ends of the steps of one rank, shape ``(steps,)``."""
_MOST_SHOWN: Final = 32
"""Ranks whose figures stand in one line."""


@dataclass(frozen=True)
class Measures:
    """The measures of a timeline (semantics, section 5). Ticks and bytes are whole, ratios exact.

    Attributes
    ----------
    bubble_overhead
        None where no rank works at all.
    peak_in_flight, peak_memory, work
        By rank; ``peak_memory`` includes the static part.
    """

    makespan: int
    span: int
    bubble_fraction: Fraction
    bubble_overhead: Fraction | None
    span_bubble: Fraction
    work: tuple[int, ...]
    peak_in_flight: tuple[int, ...]
    peak_memory: tuple[int, ...]

    def value(self, objective: str) -> int | None:
        """Return what an objective minimizes: ticks, or the most bytes on any rank; None where no measure is meant."""
        return {"makespan": self.makespan, "span": self.span, "peak-memory": max(self.peak_memory)}.get(objective)


class StepTime(NamedTuple):
    """Where a step of a schedule stands, and its first and last tick.

    Attributes
    ----------
    rank, position
        Its rank, and which step of the rank's order it is, from 0.
    start, end
        Ticks. A send or receive lasts from where it begins to occupy its queue until it is complete.
    """

    rank: int
    position: int
    start: int
    end: int


@dataclass(frozen=True, eq=False)
class Timeline:
    """When every step starts and ends: as early as its rank, its inputs and the links allow.

    Equal where schedule, problem and discipline are, since they imply it. ``timeline["2F0"]`` is one step,
    :meth:`rows` all of them, ``print`` shows the measures.

    Attributes
    ----------
    starts, ends
        For each rank the ticks at which its steps start and end, in the order of the schedule: int64 arrays of shape
        ``(steps,)``, read-only. A send or receive lasts from where it begins to occupy its queue until it is complete.
    discipline, eager_bytes
        What blocks what in a lowered schedule; else None and 0.
    """

    schedule: Schedule
    problem: Problem
    starts: tuple[Ticks, ...]
    ends: tuple[Ticks, ...]
    measures: Measures
    discipline: Discipline | None = None
    eager_bytes: int = 0

    def __post_init__(self) -> None:
        for ticks in (*self.starts, *self.ends):
            ticks.flags.writeable = False

    @property
    def makespan(self) -> int:
        """Ticks until the last step ends."""
        return self.measures.makespan

    @property
    def span(self) -> int:
        """The least ticks after which every rank can begin the next batch, no barrier between the two.

        First steps may wait for that, so it can be below :attr:`longest_window`.
        """
        return self.measures.span

    @property
    def longest_window(self) -> int:
        """Ticks from the first start to the last end of what a rank computes, on the rank where they are most."""
        starts, ends = self.starts, self.ends
        if self.schedule.lowered:
            starts, ends = (computing(self.schedule, ticks) for ticks in (starts, ends))
        return longest_window(starts, ends)

    @property
    def bubble_fraction(self) -> Fraction:
        """The idle share of all ranks over the makespan."""
        return self.measures.bubble_fraction

    @property
    def bubble_overhead(self) -> Fraction | None:
        """Idle time over work."""
        return self.measures.bubble_overhead

    @property
    def span_bubble(self) -> Fraction:
        """The idle share of the busiest rank over the span."""
        return self.measures.span_bubble

    @property
    def peak_in_flight(self) -> tuple[int, ...]:
        """The most (stage, micro-batch) pairs in flight on each rank."""
        return self.measures.peak_in_flight

    @property
    def peak_memory(self) -> tuple[int, ...]:
        """The most bytes held on each rank, the static part included."""
        return self.measures.peak_memory

    def rows(self) -> list[dict[str, Any]]:
        """Return a dict for each step, rank after rank: ``rank``, ``position``, ``step`` as text, ``start``, ``end``.

        ``pandas.DataFrame(timeline.rows())`` makes a table of them. Ticks are plain integers.
        """
        names, rows = ("rank", "position", "step", "start", "end"), []
        for rank, (starts, ends) in enumerate(zip(self.starts, self.ends, strict=True)):
            steps = zip(map(str, self.schedule.steps(rank)), starts.tolist(), ends.tolist(), strict=True)
            rows += [dict(zip(names, (rank, at, *step), strict=True)) for at, step in enumerate(steps)]
        return rows

    def __getitem__(self, step: str | Op | Step) -> StepTime:
        """Return where a step stands and when it runs: ``timeline["2F0"]``.

        An operation finds the step that it is a part of; of several ranks with the same step, the first counts.

        Raises
        ------
        KeyError
            If there is no such step.
        InputError
            If the text is no step.
        """
        words = pack_step(str(step))
        for rank, row in enumerate(self.schedule.rows):
            for index in np.flatnonzero(row & OPERATION_MASK == words[0] & OPERATION_MASK).tolist():
                position = int(positions(row[: index + 1])[-1])
                if len(words) == 1 or str(self.schedule.step(rank, position)) == str(step):
                    return StepTime(rank, position, int(self.starts[rank][position]), int(self.ends[rank][position]))
        raise KeyError(f"no rank runs {step}")

    def __iter__(self) -> Iterator[Any]:
        raise TypeError("a Timeline is not iterable: rows() has its steps")

    def __str__(self) -> str:
        return text_of(timeline_lines(self))

    def __repr__(self) -> str:
        steps = sum(map(len, self.starts))
        return f"<Timeline: {self.schedule.ranks} ranks, {steps} steps, makespan {self.makespan}>"

    def _repr_html_(self) -> str:
        """Return the timeline as Jupyter shows it: its picture and its measures."""
        return picture_of(self) + html_of(timeline_lines(self))

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Timeline):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Schedule, Problem, Discipline | None, int]:
        return self.schedule, self.problem, self.discipline, self.eager_bytes


def computing(schedule: Schedule, ticks: tuple[Ticks, ...]) -> tuple[Ticks, ...]:
    """Return the ticks of the steps that compute, from those of all steps."""
    computes = [kinds(row[row >> JOIN_SHIFT == 0]) <= int(Kind.W) for row in schedule.rows]
    return tuple(row[chosen] for row, chosen in zip(ticks, computes, strict=True))


def longest_window(starts: tuple[Ticks, ...], ends: tuple[Ticks, ...]) -> int:
    """Return the ticks from the first start to the last end of the rank where they are most."""
    return max((int(end[-1] - start[0]) for start, end in zip(starts, ends, strict=True) if len(end)), default=0)


def figures_of(measures: Measures, units: Units, beside: Iterable[int] = ()) -> dict[str, str]:
    """Return the measures as text, by what tables call them, in the order of tables.

    Parameters
    ----------
    beside
        Sizes that stand beside the peaks of memory, and must not look equal where they are not.
    """
    overhead = "none" if measures.bubble_overhead is None else f"{float(measures.bubble_overhead):.4f}"
    return {
        "makespan": units.time(measures.makespan),
        "span": units.time(measures.span),
        "bubble fraction": f"{float(measures.bubble_fraction):.4f}",
        "bubble overhead": overhead,
        "span bubble": f"{float(measures.span_bubble):.4f}",
        "peak in flight": by_rank(measures.peak_in_flight),
        "peak memory": sizes_by_rank(measures.peak_memory, units, beside),
    }


def measures_table(measures: Measures, units: Units, width: int | None = None) -> Iterator[Line]:
    """Yield the lines of a table of names and figures."""
    return table([(Span(f"  {name}"), Span(figure)) for name, figure in figures_of(measures, units).items()], width)


def timeline_lines(timeline: Timeline, width: int | None = None) -> Iterator[Line]:
    """Yield a table of a timeline's measures, and why its picture shows more than the span where it does."""
    yield from measures_table(timeline.measures, timeline.problem.units, width)
    yield from window_note(timeline)


def window_note(timeline: Timeline) -> Iterator[Line]:
    """Yield a line where the longest window of a timeline is longer than the span."""
    if timeline.longest_window > timeline.span:
        window, span = map(timeline.problem.units.time, (timeline.longest_window, timeline.span))
        text = (
            f"  a rank is under way for {window} here; where first steps wait, batches follow each other every {span}"
        )
        yield [Span(text, Tone.FAINT)]


def by_rank(values: tuple[int, ...]) -> str:
    """Return figures by rank in a line; one figure where they are equal."""
    return _in_a_line(values, list(map(str, values)), "")


def sizes_by_rank(values: tuple[int, ...], units: Units, beside: Iterable[int] = ()) -> str:
    """Return sizes by rank in a line, with their unit; one size where they are equal."""
    texts, unit = units.sizes(values, beside)
    return _in_a_line(values, texts, f" {unit}")


def _in_a_line(values: tuple[int, ...], texts: list[str], unit: str) -> str:
    if len(set(values)) == 1:
        return f"{texts[0]}{unit}" + " on every rank" * (len(values) > 1)
    shown = " ".join(texts[:_MOST_SHOWN]) + unit
    most = texts[values.index(max(values))]
    return shown if len(values) <= _MOST_SHOWN else f"{shown} ... (most: {most}{unit})"
