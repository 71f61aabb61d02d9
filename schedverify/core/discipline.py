"""The communication disciplines (semantics, section 4), in rising strictness: what blocks what below a schedule."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from schedverify.core.errors import Fault, InputError, look_up


class Discipline(StrEnum):
    """What blocks what. Each but the first admits only what the one before it admits (where SV302 holds, all do)."""

    TAGGED = "tagged"
    """Messages are matched by name; nothing queues."""
    BUFFERED = "buffered"
    """A send is complete at once; one queue for each channel (directed pair of ranks)."""
    EDGE = "edge"
    """A transfer needs both ends; one queue for each channel."""
    PAIR = "pair"
    """A transfer needs both ends; one queue for each pair of ranks, both directions in it."""
    RANK = "rank"
    """A transfer needs both ends; one queue for each rank."""
    BLOCK = "block"
    """Each send, receive or group holds the rank's whole program until it is complete."""

    @classmethod
    def of(cls, name: str) -> Discipline:
        """Return the discipline of a name.

        Raises
        ------
        UnknownNameError
            If there is none of that name; says the nearest.
        """
        return look_up("discipline", name, {member.value: member for member in cls})


DEFAULT_DISCIPLINE: Final = Discipline.PAIR


@dataclass(frozen=True)
class Communication:
    """Under which discipline a lowered schedule was judged, and which it survives.

    Attributes
    ----------
    discipline, eager_bytes
        What the verdict on SV304 is for.
    strictest
        The strictest discipline under which the schedule is free of deadlock; None where there is none.
    """

    discipline: Discipline
    eager_bytes: int
    strictest: Discipline | None

    def __str__(self) -> str:
        eager = f", messages of at most {self.eager_bytes} bytes eager" if self.eager_bytes else ""
        if self.strictest is None:
            return f"judged under {self.discipline}{eager}; free of deadlock under no discipline"
        return f"judged under {self.discipline}{eager}; strictest discipline free of deadlock: {self.strictest}"


def check_eager_bytes(eager_bytes: int) -> None:
    """Raise an InputError unless a size up to which messages are eager is a whole number of bytes, 0 or more."""
    if isinstance(eager_bytes, bool) or not isinstance(eager_bytes, int) or eager_bytes < 0:
        raise InputError(Fault("eager_bytes", f"expected a whole number of bytes, found {eager_bytes!r}", "0 or more"))
