"""What can be said of a property, of a report, and of the end of an optimization; and verdicts by their code."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from enum import StrEnum


class Verdict(StrEnum):
    """What can be said of a property, and of a whole report."""

    HOLDS = "holds"
    VIOLATED = "violated"
    UNDECIDED = "undecided"
    NOT_APPLICABLE = "not applicable"

    @classmethod
    def of_properties(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """Return the verdict on a whole: violated, undecided or holds where a property is, else not applicable."""
        return cls._first((cls.VIOLATED, cls.UNDECIDED, cls.HOLDS), verdicts)

    @classmethod
    def of_files(cls, verdicts: Iterable[Verdict]) -> Verdict:
        """Return the worst verdict: violated, undecided, not applicable, holds; not applicable where there is none."""
        return cls._first((cls.VIOLATED, cls.UNDECIDED, cls.NOT_APPLICABLE, cls.HOLDS), verdicts)

    @classmethod
    def _first(cls, order: Iterable[Verdict], verdicts: Iterable[Verdict]) -> Verdict:
        found = set(verdicts)
        return next((verdict for verdict in order if verdict in found), cls.NOT_APPLICABLE)


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


class Verdicts(Mapping[str, Verdict]):
    """The verdict of every property that was checked, by its code, in the order of the codes as they were given.

    A mapping that cannot be changed; it equals every mapping with the same entries, and has a hash.

    Parameters
    ----------
    verdicts
        Another mapping, or pairs of code and verdict.
    """

    __slots__ = ("_verdicts",)

    def __init__(self, verdicts: Mapping[str, Verdict] | Iterable[tuple[str, Verdict]] = ()) -> None:
        self._verdicts = dict(verdicts)

    def __getitem__(self, code: str) -> Verdict:
        return self._verdicts[code]

    def __iter__(self) -> Iterator[str]:
        return iter(self._verdicts)

    def __len__(self) -> int:
        return len(self._verdicts)

    def __hash__(self) -> int:
        return hash(frozenset(self._verdicts.items()))

    def __repr__(self) -> str:
        return f"Verdicts({{{', '.join(f'{code!r}: {verdict.value!r}' for code, verdict in self.items())}}})"
