"""The contents of a picture of one schedule: rows of steps with places, marks of violations, measures, remarks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schedverify.core.op import JOIN_SHIFT, Join, Step, unpack
from schedverify.core.result import Violation
from schedverify.core.schedule import Words, kinds, op_stages
from schedverify.core.timeline import Measures
from schedverify.core.units import Units

PAIR: Final = 30
"""The number of an overlapped step where the numbers of :class:`Kind` stand for single operations."""
GROUP: Final = 31
"""The number of a group of communications where the numbers of :class:`Kind` stand for single operations."""


@dataclass(frozen=True, eq=False)
class PanelRow:
    """One rank of a picture.

    Attributes
    ----------
    words
        The packed operations of the rank.
    starts, ends
        The begin and the end of each step, int64 of shape (steps,): ticks, or positions in a picture of an order.
    chunks
        The number of each stage among the rank's stages (from 0), by stage.
    marks
        By position, the numbers of the violations there (from 1).
    critical
        The positions of the steps on the critical path, where it is to be shown.
    """

    rank: int
    words: Words
    starts: NDArray[np.int64]
    ends: NDArray[np.int64]
    chunks: Mapping[int, int]
    marks: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    critical: frozenset[int] = frozenset()

    @cached_property
    def firsts(self) -> NDArray[np.int64]:
        """The index in ``words`` of the first operation of each step, shape (steps,)."""
        return np.flatnonzero(self.words >> JOIN_SHIFT == Join.BEGIN)

    @cached_property
    def kinds(self) -> NDArray[np.int64]:
        """The number of the kind of each step, or :data:`PAIR` or :data:`GROUP`, shape (steps,)."""
        joins = self.words >> JOIN_SHIFT
        seconds = np.minimum(self.firsts + 1, max(len(self.words) - 1, 0))
        join = joins[seconds] if len(self.words) else joins
        return np.select([join == Join.OVERLAP, join == Join.GROUP], [PAIR, GROUP], kinds(self.words[self.firsts]))

    @property
    def stages(self) -> NDArray[np.int64]:
        """The stage of the first operation of each step, shape (steps,)."""
        return op_stages(self.words[self.firsts])

    def step(self, position: int) -> Step:
        """Return the step at a position."""
        first = int(self.firsts[position])
        last = int(self.firsts[position + 1]) if position + 1 < len(self.firsts) else len(self.words)
        words = self.words[first:last].tolist()
        return Step(tuple(map(unpack, words)), Join(words[-1] >> JOIN_SHIFT) if len(words) > 1 else Join.BEGIN)

    def chunk(self, stage: int) -> int:
        """Return the number of a stage among the rank's stages, from 0; it is 0 for a stage of another rank."""
        return self.chunks.get(stage, 0)


@dataclass(frozen=True, eq=False)
class Panel:
    """One schedule in a picture.

    Attributes
    ----------
    timed
        Whether places are ticks; else they are positions in the order of each rank.
    horizon
        The end of the last step, in places, at least 1.
    unit
        What a place counts: the problem's tick, or ``position``.
    measures
        None where there is no timeline.
    units
        How the problem's times and sizes are told.
    window
        Ticks of the longest window in the picture; 0 where there is no timeline.
    violation_count
        How many violations there are, with those that a report only counts.
    faults
        Numbers of the violations that have a rank but no position, by rank.
    hidden
        How many ranks are not shown.
    """

    title: str
    timed: bool
    unit: str
    horizon: int
    rows: tuple[PanelRow, ...]
    measures: Measures | None
    window: int
    violations: tuple[Violation, ...]
    violation_count: int
    faults: Mapping[int, tuple[int, ...]]
    remarks: tuple[str, ...]
    hidden: int = 0
    units: Units = field(default_factory=Units)

    @property
    def steps(self) -> int:
        """The number of steps in the picture."""
        return sum(len(row.starts) for row in self.rows)

    @cached_property
    def chunks(self) -> int:
        """The most stages that a rank has."""
        return max((max(row.chunks.values(), default=0) + 1 for row in self.rows), default=1)

    @cached_property
    def used(self) -> frozenset[int]:
        """The numbers of the kinds that occur, with :data:`PAIR` and :data:`GROUP`."""
        return frozenset(kind for row in self.rows for kind in np.unique(row.kinds).tolist())
