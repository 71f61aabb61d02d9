"""What a property is: a code, a name, a scope, a text in a fixed form, and a check that yields its violations.

A check gets a :class:`Case`, which derives what several checks need, each once and only when asked: so a schedule
without communication loads nothing of it.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import numpy as np

from schedverify.core.discipline import DEFAULT_DISCIPLINE, Discipline
from schedverify.core.errors import ScheduleError, UnknownNameError
from schedverify.core.op import PEER_SHIFT
from schedverify.core.problem import Problem
from schedverify.core.result import LARGEST_KEPT_TIMELINE, Scope, TimelineSource, Violation
from schedverify.core.schedule import IntArray, Schedule, is_communication
from schedverify.core.timeline import Measures, Timeline
from schedverify.simulator.engine import is_simple, simulate
from schedverify.verifier.occurrences import Occurrences
from schedverify.verifier.places import picture_of_places

if TYPE_CHECKING:
    from schedverify.verifier.happens_before import EventGraph
    from schedverify.verifier.matching import Transfers
    from schedverify.verifier.wait_cycles import Wait


PAIR_MASK: Final = (1 << PEER_SHIFT) - 1
"""The bits of a packed operation that say its stage and micro-batch."""


MOST_NAMED: Final = 50
"""The most ranks that are named where many wait behind a cycle."""


class NotApplicable(Exception):  # noqa: N818 - a verdict, not an error
    """Raised by a check that has nothing to judge; says why, and what would give it something to judge."""

    def __init__(self, reason: str, remedy: str = "") -> None:
        super().__init__(reason)
        self.remedy = remedy


class Undecided(Exception):  # noqa: N818 - a verdict, not an error
    """Raised by a check that cannot tell; says why."""


@dataclass(frozen=True)
class Case:
    """What is judged: a schedule, the problem it is for, and what is claimed of it.

    Attributes
    ----------
    excerpt
        Whether compute operations that the order lacks count as done before it begins.
    claims
        May hold ``timeline`` (the starts of every step by rank, in ticks), the measures by name, ``objective``,
        ``value``, ``bound``, ``certificate``, and ``then`` with the last four for a second objective.
    discipline, eager_bytes
        What blocks what below a schedule with communication, and up to which size in bytes messages are eager.
    """

    schedule: Schedule
    problem: Problem
    excerpt: bool = False
    claims: Mapping[str, Any] = field(default_factory=dict)
    discipline: Discipline = DEFAULT_DISCIPLINE
    eager_bytes: int = 0

    @property
    def measures(self) -> Measures | None:
        """The measures that follow, or None where the schedule cannot run to its end as a whole."""
        return self._run[0]

    @property
    def timeline(self) -> Timeline | None:
        """The timeline that follows, or None where the schedule cannot run to its end as a whole."""
        return self.timeline_source() if callable(self.timeline_source) else self.timeline_source

    @property
    def timeline_source(self) -> TimelineSource | None:
        """The timeline, or what makes it anew where it is too long to be kept; None where there are no measures."""
        return self._run[1]

    @cached_property
    def _run(self) -> tuple[Measures | None, TimelineSource | None]:
        """Simulate the schedule, once."""
        make = partial(
            simulate,
            self.schedule,
            self.problem,
            excerpt=self.excerpt,
            discipline=self.discipline,
            eager_bytes=self.eager_bytes,
        )
        try:
            timeline = make()
        except ScheduleError:
            return None, None
        return timeline.measures, timeline if len(self.schedule) <= LARGEST_KEPT_TIMELINE else make

    def claiming(self, claims: Mapping[str, Any]) -> Case:
        """Return this case with other claims; its timeline is not made a second time."""
        case = replace(self, claims=claims)
        vars(case)["_run"] = self._run
        return case

    @cached_property
    def sound(self) -> bool:
        """Whether the simulator has run the order to its end, each operation of the problem once, where it belongs.

        This is known only of whole compute orders in which every step is one operation on one rank.
        """
        return is_simple(self.schedule, self.problem) and not self.schedule.lowered and self.ran is not None

    @cached_property
    def ran(self) -> Measures | None:
        """The measures, with exact peaks, of a whole schedule that has run to its end; of an excerpt None."""
        return None if self.excerpt else self.measures

    @cached_property
    def has_transfers(self) -> bool:
        """Whether a send, a receive or a wait for a send stands in the schedule at all."""
        return bool(is_communication(np.concatenate(self.schedule.rows)).any())

    @cached_property
    def transfers(self) -> Transfers:
        """The sends and receives of a schedule in which some stand, with the waits for them.

        Raises
        ------
        NotApplicable
            If none stands in it.
        """
        if not self.has_transfers:
            raise NotApplicable("no send and no receive stands in the schedule", "schedverify lower adds them")
        from schedverify.verifier.matching import Transfers

        return Transfers(self.schedule, self.problem)

    @cached_property
    def occurrences(self) -> Occurrences:
        """Where each compute operation stands."""
        return Occurrences(self.schedule, self.problem)

    @cached_property
    def events(self) -> EventGraph:
        """What must happen before what, under the named discipline."""
        return self._events(self.discipline)

    @cached_property
    def matched(self) -> tuple[IntArray, IntArray]:
        """The sends and the receives that match as the n-th on their channel, as numbers of transfers."""
        from schedverify.verifier.matching import matched

        return matched(self.transfers, np.flatnonzero(self.transfers.partner >= 0), by_name=False)

    @cached_property
    def strictest(self) -> Discipline | None:
        """The strictest discipline under which the schedule is free of deadlock, or None where there is none."""
        return next((d for d in reversed(Discipline) if not self._events(d).blocked.any()), None)

    def _events(self, discipline: Discipline) -> EventGraph:
        if discipline is self.discipline and "events" in self.__dict__:
            return self.events
        transfers = self.transfers
        from schedverify.verifier.happens_before import EventGraph

        return EventGraph(self.occurrences, transfers, discipline, self.eager_bytes)


class More(NamedTuple):
    """What a check yields for violations that it has only counted: nobody would read them behind those before."""

    number: int


Check = Callable[[Case], Iterable[Violation | More]]


def violation_at(code: str, rank: int, position: int, name: str, text: str, *others: str) -> Violation:
    """Return a violation by one operation, of whose place it says something; ``others`` are operations in it too."""
    message = f"rank {rank}, position {position} ({name}): {text}"
    return Violation(code, message, rank, position, (name, *others))


def violations_of_cycles(
    code: str, cycles: Iterable[list[Wait]], blocked: set[int], schedule: Schedule
) -> Iterator[Violation]:
    """Yield for each cycle that its ranks wait for one another, with the others blocked behind; a picture of the first.

    Parameters
    ----------
    blocked
        The ranks that do not come to their end.
    """
    for number, cycle in enumerate(cycles):
        story = tuple(map(str, cycle))
        behind = sorted(blocked - {wait.rank for wait in cycle})
        names = ", ".join(map(str, behind[:MOST_NAMED]))
        rest = f" and {len(behind) - MOST_NAMED} more" * (len(behind) > MOST_NAMED)
        tail = f"; rank {names}{rest} cannot end either" if behind else ""
        steps, first = tuple(wait.step for wait in cycle), cycle[0]
        marks = [(wait.rank, wait.position, f"waits for {wait.awaited}") for wait in cycle]
        picture = () if number else picture_of_places(schedule, marks)
        yield Violation(code, "; ".join(story) + tail, first.rank, first.position, steps, story, picture)


@dataclass(frozen=True)
class Property:
    """One property. Its text stands in the docstring of its check, under the four headings of :data:`HEADINGS`."""

    code: str
    name: str
    scope: Scope
    check: Check

    @property
    def text(self) -> str:
        """The docstring of the check, without its indentation."""
        return inspect.cleandoc(self.check.__doc__ or "")

    def section(self, heading: str) -> str:
        """Return what stands under one of :data:`HEADINGS`, as one paragraph or block."""
        following = "|".join(map(re.escape, HEADINGS))
        match = re.search(rf"^{heading}\n\n(.*?)(?=\n\n(?:{following})\n|\Z)", self.text, re.DOTALL | re.MULTILINE)
        return match[1].strip() if match else ""


HEADINGS: Final = ("What it checks", "Why it matters", "Example", "Formally")
REGISTRY: Final[dict[str, Property]] = {}


def unknown_property(asked: str) -> UnknownNameError:
    """Return the error for what is no code: it says the nearest one, or those whose names have the word."""
    word = asked.strip().casefold()
    named = [
        f"{prop.code}: {prop.name}" for prop in REGISTRY.values() if len(word) > 2 and word in prop.name.casefold()
    ]
    error = UnknownNameError.among("property", asked, REGISTRY)
    return UnknownNameError([error.faults[0]._replace(hint=", ".join(named))]) if named else error


def rule(code: str, name: str, scope: Scope = Scope.EVERY_DURATION) -> Callable[[Check], Check]:
    """Register a check as the property ``code``."""

    def register(check: Check) -> Check:
        REGISTRY[code] = Property(code, name, scope, check)
        return check

    return register
