"""Why a search ended as it did: which limits clash and what would do, or what binds and what more would gain."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from typing import Final, NamedTuple

from schedverify.core.result import Status
from schedverify.core.units import Units

OF_LOWERED: Final = "of the makespan with communication"
"""What a gain is of that is no gain of the objective, but of the time of the plan's schedule with its messages."""
_ARROW: Final = "an arrow: the output of another rank or stage is waited for"
_WIDTH: Final = 110
_LONGEST_PATH: Final = 60
_ALIKE: Final = {
    "memory.capacity": " on every rank",
    "limits.in_flight": " on every rank",
    "limits.in_flight_stage": " on every stage",
}


class PathLink(NamedTuple):
    """A step of a critical path, as text, and why it waits for the one before it (empty for the first)."""

    step: str
    why: str


class CriticalWay(NamedTuple):
    """A part of a critical cycle of ranks: the longest way from the first step of one to the last end on the next.

    Attributes
    ----------
    rank, to
        The rank on which the way begins, and that on which it ends, where the next batch begins.
    ticks
        From the start of the first step to the end of the last.
    path
        Its steps, each waiting for the one before it.
    """

    rank: int
    to: int
    ticks: int
    path: tuple[PathLink, ...]


@dataclass(frozen=True)
class Relief:
    """The least value of one limit with which there is a schedule, the other limits being as they are.

    Attributes
    ----------
    limit
        ``memory.capacity`` (bytes), ``limits.in_flight``, ``limits.in_flight_stage`` (of all ranks or stages alike) or
        ``limits.makespan`` (ticks).
    least
        A value for which a schedule was found; None where none was found.
    bound
        It is proved that no smaller value would do; None where no value would.
    """

    limit: str
    least: int | None
    bound: int | None

    def __str__(self) -> str:
        return self.told(Units())

    def told(self, units: Units) -> str:
        """Say what would do, in the units of the problem."""
        alike = _ALIKE.get(self.limit, "")
        told = {"memory.capacity": units.exact, "limits.makespan": units.time}.get(self.limit, str)
        texts = {value: told(value) for value in (self.bound, self.least) if value is not None}
        if self.bound is None:
            return f"{self.limit}: no value would do, the other limits clash by themselves"
        if self.least is None:
            return f"{self.limit}: {texts[self.bound]}{alike} or more; which value would do is open"
        found = f"{self.limit}: {texts[self.least]}{alike} would do"
        if self.least == self.bound:
            return f"{found}, less would not"
        return f"{found}, less than {texts[self.bound]} would not; what lies between is open"


@dataclass(frozen=True)
class Gain:
    """What would be gained by one change of the problem: of the value of the plan's objective, if nothing else is said.

    Attributes
    ----------
    change
        The key and what is changed, as text.
    least, most
        At least so much is gained, because such a schedule was found; more than ``most`` is not, because that is
        proved (None where nothing is). Where they are equal, the gain is exact.
    of
        What is gained where it is not the objective, as words behind the number: ticks :data:`OF_LOWERED`, or a count
        of things.
    """

    change: str
    least: int
    most: int | None
    of: str = ""

    @property
    def exact(self) -> bool:
        """Whether the gain is proved."""
        return self.least == self.most

    def __str__(self) -> str:
        return self.told(Units(), "makespan")

    def told(self, units: Units, objective: str) -> str:
        """Say what is gained of an objective, in the units of the problem."""
        formats: dict[str, Callable[[int], str]] = {"": partial(units.value, objective), OF_LOWERED: units.time}
        told = formats.get(self.of, str)
        least, of = told(self.least), f" {self.of}" * bool(self.of)
        if self.exact:
            return f"{self.change}: gains {least if self.least else 'nothing'}{of}"
        most = "how much more is open" if self.most is None else f"at most {told(self.most)}"
        return f"{self.change}: gains at least {least}, {most}{of}"


@dataclass(frozen=True)
class Explanation:
    """Why there is no schedule, or what keeps the schedule of a plan from being better. ``str()`` tells it.

    Attributes
    ----------
    clash
        Infeasible: limits that no schedule keeps all together, whatever the others.
    minimal
        Whether it is proved that each of them is needed for that.
    reliefs
        For each of them, the least value that would do.
    bound
        What the bound rests on, as a sentence.
    critical_path
        A longest path of steps, each waiting for the one before it. For a span there is none.
    critical_cycle
        For a span, ways that lead round a cycle of ranks, each from a batch to the next: as many batches as there are
        ways take at least as long as all of them together.
    binding
        The limits that are at their limit, and the ranks that hold the most, as sentences.
    gains
        What one unit more of each of these, and one tick less, would gain, of plans that are proved optimal; and what
        looser limits on communication would.
    remarks
        What is open.
    units
        How times and sizes are told.
    """

    status: Status
    objective: str
    clash: tuple[str, ...] = ()
    minimal: bool = False
    reliefs: tuple[Relief, ...] = ()
    bound: str = ""
    critical_path: tuple[PathLink, ...] = ()
    critical_cycle: tuple[CriticalWay, ...] = ()
    binding: tuple[str, ...] = ()
    gains: tuple[Gain, ...] = ()
    remarks: tuple[str, ...] = ()
    units: Units = field(default_factory=Units, repr=False, compare=False)

    def __str__(self) -> str:
        return "\n".join(line for part in self._parts() for line in part)

    def __repr__(self) -> str:
        return f"<Explanation: {self.status.value}, {self.objective}>"

    def _parts(self) -> Iterator[list[str]]:
        if self.clash:
            alone = "" if self.minimal else " (perhaps already some of them)"
            yield [f"no schedule keeps {' and '.join(self.clash)}{alone}"]
            yield [f"  {relief.told(self.units)}" for relief in self.reliefs]
        if self.bound:
            yield [f"the bound rests on {self.bound}"]
        if self.critical_path:
            yield [f"critical path ({_ARROW})", *_wrapped(_told(self.critical_path))]
        if self.critical_cycle:
            yield [f"{self._cycle()} ({_ARROW})"]
            for way in self.critical_cycle:
                time = self.units.time(way.ticks)
                yield _wrapped(f"rank {way.rank} to rank {way.to}, {time}: {_told(way.path)}")
        if self.binding:
            yield ["at the limit", *(f"  {sentence}" for sentence in self.binding)]
        if self.gains:
            heading = f"what one unit more, or one tick less, would gain of the {self.objective}"
            yield [heading, *self._gains()]
        yield [f"note: {remark}" for remark in self.remarks]

    def _gains(self) -> list[str]:
        """Return a line for each gain, and at their end what gains nothing, in a row."""
        idle = [gain.change for gain in self.gains if gain.exact and not gain.least]
        lines = [f"  {gain.told(self.units, self.objective)}" for gain in self.gains if gain.change not in idle]
        return [*lines, *(_wrapped(f"nothing: {'; '.join(idle)}") if idle else ())]

    def _cycle(self) -> str:
        """Say between which ranks the critical cycle leads, and what follows for the batches."""
        count, time = len(self.critical_cycle), self.units.time(sum(way.ticks for way in self.critical_cycle))
        takes = f"a batch takes {time}" if count == 1 else f"{count} batches take {time}"
        ranks = [f"rank {way.rank}" for way in self.critical_cycle]
        return f"critical cycle of {' and '.join(ranks)}: {takes}"


def _told(path: tuple[PathLink, ...]) -> str:
    """Return the steps of a path in a row, the middle of a long one left out."""
    left = len(path) - _LONGEST_PATH
    words = [f"{'→ ' if link.why in ('transfer', 'data') else ''}{link.step}" for link in path]
    if left > 0:
        words[_LONGEST_PATH // 2 : -_LONGEST_PATH // 2] = [f"… ({left} more)"]
    return " ".join(words)


def _wrapped(text: str) -> list[str]:
    return textwrap.wrap(text, _WIDTH, initial_indent="  ", subsequent_indent="  ")
