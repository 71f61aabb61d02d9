"""The communication disciplines (semantics, section 4), in rising strictness: what blocks what below a schedule."""

from __future__ import annotations

from enum import StrEnum
from typing import Final

from schedverify.errors import Fault, InputError, UnknownNameError


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
        if name not in tuple(cls):
            raise UnknownNameError.among("discipline", name, [member.value for member in cls])
        return cls(name)


DEFAULT_DISCIPLINE: Final = Discipline.PAIR


def check_eager_bytes(eager_bytes: int) -> None:
    """Raise an InputError unless a size up to which messages are eager is a whole number of bytes, 0 or more."""
    if isinstance(eager_bytes, bool) or not isinstance(eager_bytes, int) or eager_bytes < 0:
        raise InputError(Fault("eager_bytes", f"expected a whole number of bytes, found {eager_bytes!r}", "0 or more"))
