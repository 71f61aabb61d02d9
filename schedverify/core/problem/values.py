"""Checks what single keys hold by the table of keys, whatever file they stand in: a problem or a model."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final

from schedverify.core.problem.faults import Faults
from schedverify.core.problem.keys import Key
from schedverify.core.problem.numbers import LARGEST, decimal_places, exact, finer_tick, size, whole
from schedverify.core.problem.showing import clean, shown

_LONGEST_TEXT: Final = 1000
_INDEX: Final = re.compile(r"\[[0-9]+\]")


class Values(Faults):
    """The data of a file and the faults found in it so far.

    A place is a key with what it takes to get there, ``layer[2].forward``.
    """

    def __init__(self, data: Mapping[str, Any], keys: Iterable[Key]) -> None:
        super().__init__()
        self.data = data
        self._keys = {key.path: key for key in keys}
        self._places: int | None = None

    def key_at(self, place: str) -> Key | None:
        """Return what the table of keys says of a place; None where it knows no such key."""
        return self._keys.get(_INDEX.sub("", place))

    def number(self, place: str, value: Any, low: int, most: int = LARGEST) -> int:
        """Check one number from ``low`` to ``most``; where its key takes a size, it may have a unit."""
        if type(value) is int and low <= value <= most:
            return value
        key = self.key_at(place)
        sized = key is not None and key.shape.startswith("size")
        number = size(value) if sized else whole(value)
        if number is not None and low <= number <= most:
            return number
        if key is not None and key.shape.startswith("duration") and decimal_places(value):
            self._off_tick(place, value)
            return low
        upper = str(most) if most < LARGEST else "2^62"
        kind = 'bytes (a whole number, or text such as "1.5 GiB")' if sized else "a whole number"
        message = f"expected {kind} from {low} to {upper}, found {shown(value)}"
        self.fault(place, message, key.meaning if key else "")
        return low

    def plain_text(self, place: str, value: Any) -> str:
        """Check a text: of bounded length, without control characters."""
        if isinstance(value, str) and len(value) <= _LONGEST_TEXT and value.isprintable():
            return value
        kind = f"a line of text of at most {_LONGEST_TEXT} printable characters"
        self.fault(place, f"expected {kind}, found {shown(value)}")
        return ""

    def items(self, place: str, value: Any, hint: str = "") -> Sequence[Any]:
        """Check that a value is a list."""
        if isinstance(value, list | tuple):
            return value
        self.fault(place, f"expected a list, found {shown(value)}", hint)
        return ()

    def table(self, name: str) -> Mapping[str, Any]:
        """Take a table, which may be absent."""
        inside = self.data.get(name)
        if isinstance(inside, Mapping):
            return inside
        if name in self.data:
            self.fault(name, f"expected a table, found {shown(inside)}", f"write [{name}] and its keys below")
        return {}

    def _off_tick(self, place: str, value: Any) -> None:
        """Say which one tick would do for every duration of the file."""
        tick = self.data.get("tick")
        tick = clean(tick) if isinstance(tick, str) else "tick"
        if self._places is None:
            self._places = max(map(decimal_places, self._durations()))
        here = (exact(value) or 0) * 10**self._places
        would = f'tick = "{finer_tick(tick, self._places)}" would do, with every duration in it: here {shown(here)}'
        self.fault(place, f"{shown(value)} is no multiple of the tick ({tick})", would)

    def _durations(self) -> Iterator[Any]:
        """Yield what stands where a duration belongs."""
        left: list[tuple[str, Any]] = [("", self.data)]
        while left:
            path, value = left.pop()
            if isinstance(value, Mapping):
                left += [(f"{path}.{name}" if path else str(name), item) for name, item in value.items()]
            elif isinstance(value, list | tuple):
                left += [(path, item) for item in value]
            elif path in self._keys and self._keys[path].shape.startswith("duration"):
                yield value
