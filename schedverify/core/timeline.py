"""When the steps of a schedule start and end, and what is measured of that. Values only."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
from numpy.typing import NDArray

from schedverify.core.discipline import Discipline
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule


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


@dataclass(frozen=True, eq=False)
class Timeline:
    """When every step starts and ends: as early as its rank, its inputs and the links allow.

    Equal where schedule, problem and discipline are, since they imply it.

    Attributes
    ----------
    starts, ends
        For each rank the ticks of its steps, int64, in the order of the schedule. A send or receive lasts from where
        it begins to occupy its queue until it is complete.
    discipline, eager_bytes
        What blocks what in a lowered schedule; else None and 0.
    """

    schedule: Schedule
    problem: Problem
    starts: tuple[NDArray[np.int64], ...]
    ends: tuple[NDArray[np.int64], ...]
    measures: Measures
    discipline: Discipline | None = None
    eager_bytes: int = 0

    @property
    def makespan(self) -> int:
        """Ticks until the last step ends."""
        return self.measures.makespan

    @property
    def span(self) -> int:
        """Ticks from the first start to the last end of the rank where they are most."""
        return self.measures.span

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
        """The idle share of the rank with the longest span over that span."""
        return self.measures.span_bubble

    @property
    def peak_in_flight(self) -> list[int]:
        """The most (stage, micro-batch) pairs in flight on each rank."""
        return list(self.measures.peak_in_flight)

    @property
    def peak_memory(self) -> list[int]:
        """The most bytes held on each rank, the static part included."""
        return list(self.measures.peak_memory)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Timeline):
            return NotImplemented
        return self._key == other._key

    def __hash__(self) -> int:
        return hash(self._key)

    @property
    def _key(self) -> tuple[Schedule, Problem, Discipline | None, int]:
        return self.schedule, self.problem, self.discipline, self.eager_bytes
