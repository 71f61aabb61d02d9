"""When each action of a step began and ended, as seen by its rank.

A compute step begins when its inputs are there. A send ends when its message has left, or, while sends are few,
when it was begun. A receive begins when it is posted and ends when what it brings is read, or has come, whichever is
later. A group spans its members.
"""

from __future__ import annotations

from collections.abc import Iterable

from schedverify.core.trace import StepSpan
from schedverify.runner.program import Action


class Spans:
    """Begin and end of actions, in nanoseconds, added by this rank and by the thread that waits for its sends."""

    def __init__(self, rank: int) -> None:
        self._rank = rank
        self._added: list[tuple[int, int, int]] = []

    def add(self, position: int, began: int, ended: int) -> None:
        """Note one operation of the action at a position."""
        self._added.append((position, began, ended))

    def ran(self, actions: Iterable[Action]) -> list[StepSpan]:
        """Return what ran, in the order of the positions."""
        spans: dict[int, tuple[int, int]] = {}
        for position, began, ended in self._added:
            first, last = spans.get(position, (began, ended))
            spans[position] = min(first, began), max(last, ended)
        return [
            StepSpan(self._rank, action.position, action.text, *spans[action.position])
            for action in actions
            if action.position in spans
        ]
