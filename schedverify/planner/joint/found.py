"""What the search for partition and schedule together found: the plan, what is proved, and what was gained."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

from schedverify.core.model import Model
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Status

Ints = tuple[int, ...]


@dataclass(frozen=True)
class Tried:
    """A partition that its bound did not rule out, or the best, and what the optimizer said of it.

    Attributes
    ----------
    placement
        The rank of each stage.
    layers
        By stage, the positions of its layers.
    bound
        Ticks that no schedule of this partition can go below.
    certificate
        Evidence that needs no solver for the ``bound`` that stands in it; where :attr:`bound` is higher, the rest is
        the solver's word.
    value
        The makespan of the best schedule that was found; None where the search showed that none is shorter than the
        best of another partition, or found none.
    """

    placement: Ints
    layers: tuple[Ints, ...]
    bound: int
    certificate: Mapping[str, Any] | None = field(default=None, hash=False)
    value: int | None = None


@dataclass(frozen=True)
class Joint:
    """The best plan over all partitions and placements that were asked for.

    Attributes
    ----------
    plan
        Verified; ``plan.partition`` has the layers of its stages. Its own bound holds of its own partition.
    layers
        By stage, the positions of its layers.
    bound
        Ticks that no schedule of any of the partitions can go below.
    first
        The plan of partition first and schedule second, or None where no partition was found that fits what the family
        has in flight.
    tried
        The best partition, and those that their bounds did not rule out. Every other one has a bound of at least
        ``plan.value``, or of at least :attr:`bound` where the search was ended.
    partitions
        How many there are in all, by number of layers and stages alone; None for graphs.
    linearized
        Whether a graph was cut as a chain in the order of its layers, because it has too many ways to be cut.
    reason
        What ended the search where the gap is open.
    """

    model: Model
    plan: Plan
    layers: tuple[Ints, ...]
    bound: int
    first: Plan | None = None
    tried: tuple[Tried, ...] = ()
    partitions: int | None = None
    linearized: bool = False
    reason: str = ""

    @property
    def problem(self) -> Problem:
        """The problem that the stages make."""
        return self.plan.problem

    @property
    def names(self) -> list[list[str]]:
        """By stage, the names of its layers: what the plan holds as ``partition``."""
        return [list(layers) for layers in self.plan.partition or ()]

    @property
    def status(self) -> Status:
        """Optimal only where no partition can have a shorter schedule; else that of the plan, feasible or unknown."""
        if self.plan.value is None:
            return self.plan.status
        return Status.OPTIMAL if self.bound >= self.plan.value else Status.FEASIBLE

    @property
    def gap(self) -> Fraction | None:
        """``(value - bound) / bound`` over all partitions; None where either is unknown or the bound is 0."""
        return None if self.plan.value is None or not self.bound else Fraction(self.plan.value, self.bound) - 1

    @property
    def gain(self) -> Fraction | None:
        """The share of the makespan of partition first and schedule second that is saved."""
        if self.first is None or not self.first.value or self.plan.value is None:
            return None
        return 1 - Fraction(self.plan.value, self.first.value)
