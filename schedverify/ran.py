"""What a rank really did: one value for each step that ran, whoever ran it."""

from __future__ import annotations

from typing import NamedTuple


class Ran(NamedTuple):
    """One step that ran: where it stands in the order, what it was, and when it began and ended.

    Times are nanoseconds of the rank's own monotonic clock (:func:`time.perf_counter_ns`).
    """

    rank: int
    position: int
    """The step's position in the rank's order, lowered or not, as executed."""
    step: str
    """Its text, such as ``2F0`` or ``0SEND_F1``."""
    start: int
    end: int
