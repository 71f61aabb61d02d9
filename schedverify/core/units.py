"""How times and sizes are told: in the units of the file, never so that two that differ look the same."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Final, NamedTuple

SIZES: Final = {"B": 1} | {
    f"{letter}{suffix}": base**power
    for suffix, base in (("B", 1000), ("iB", 1024))
    for power, letter in enumerate("kMGTP" if base == 1000 else "KMGTP", 1)
}
"""The units of sizes, and the bytes of each."""
_SPELLED: Final = {name.lower(): name for name in SIZES}
_SIZE: Final = re.compile(r"\s*[0-9.]+\s*([A-Za-z]+)\s*")
_TICK: Final = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,18})?)\s*([a-zµ]{1,2})\s*")
_LONGEST: Final = 16
"""Letters of a tick's name that are told."""


class Units(NamedTuple):
    """The units of a problem: ``tick`` of its times, ``size`` of its bytes (empty where it names none)."""

    tick: str = "tick"
    unit: str = ""

    def time(self, ticks: int) -> str:
        """Return a time: ``33 ticks``, ``18,522 us``; of a tick of ``0.1 us`` the microseconds."""
        if self.tick == "tick":
            return f"{ticks:,} tick{'s' * (ticks != 1)}"
        if match := _TICK.fullmatch(self.tick):
            return f"{_short(ticks * Decimal(match[1]))} {match[2]}"
        name = self.tick if len(self.tick) <= _LONGEST else f"{self.tick[: _LONGEST - 3]}..."
        return f"{ticks:,} {name}"

    def size(self, count: int) -> str:
        """Return a size that was worked out: ``18.0 GiB``; ``18 units`` where the file names no unit."""
        (text,), unit = self.sizes([count])
        return f"{text} {unit}"

    def exact(self, count: int) -> str:
        """Return a size to its last byte, in the largest unit in which that takes at most three decimals."""
        for name in self._scales():
            thousandths, rest = divmod(count * 1000, SIZES[name])
            if count and not rest:
                return f"{_short(Decimal(thousandths) / 1000)} {name}"
        return self.size(count)

    def given(self, count: int) -> str:
        """Return a size that the file gives, as it does where that is short: ``16 GiB``, ``1.5 GiB``."""
        text = self.exact(count)
        return self.size(count) if text.endswith(" B") else text

    def over(self, held: int, limit: int) -> str:
        """Say how far a size is over its limit: ``18.0 GiB, 2.0 GiB over its 16 GiB``."""
        return f"{self.size(held)}, {self.size(held - limit)} over its {self.given(limit)}"

    def sizes(self, counts: Sequence[int], beside: Iterable[int] = ()) -> tuple[list[str], str]:
        """Return sizes as numbers of one unit, and that unit.

        It is the largest, up to the file's, that the largest of them reaches and in which any two that differ look
        different with one decimal.

        Parameters
        ----------
        beside
            Sizes that are told elsewhere and must look different where they differ as well.
        """
        if not self.unit:
            return [f"{count:,}" for count in counts], "unit" if list(counts) == [1] else "units"
        different = {*counts, *beside}
        for name in self._scales():
            told = {count: _tenths(count, SIZES[name]) for count in different}
            if SIZES[name] == 1 or (max(different) >= SIZES[name] and len(set(told.values())) == len(different)):
                break
        return [f"{count:,}" if SIZES[name] == 1 else told[count] for count in counts], name

    def values(self, objective: str, *values: int) -> list[str]:
        """Return values of an objective: sizes for ``peak-memory``, else times; those that differ look different."""
        if objective != "peak-memory" or not self.unit:
            return [self.size(value) if objective == "peak-memory" else self.time(value) for value in values]
        texts, unit = self.sizes(values)
        return [f"{text} {unit}" for text in texts]

    def value(self, objective: str, value: int) -> str:
        """Return one value of an objective; see :meth:`values`."""
        return self.values(objective, value)[0]

    def _scales(self) -> list[str]:
        """Return the units from the file's down to bytes, in powers of 1024 or of 1000 as the file's."""
        most, binary = SIZES.get(self.unit, 0), "i" in self.unit
        kind = [name for name, length in SIZES.items() if length <= most and (length == 1 or ("i" in name) is binary)]
        return sorted(kind, key=SIZES.__getitem__, reverse=True)


def unit_of(size: object) -> str:
    """Return the unit of a size as text, ``GiB`` of ``"1.5 gib"``; empty of a number, and of text without one."""
    match = _SIZE.fullmatch(size) if isinstance(size, str) else None
    return _SPELLED.get(match[1].lower(), "") if match else ""


def _tenths(count: int, length: int) -> str:
    """Return how many units of a length a size is, rounded to one decimal, halves up."""
    tenths = (20 * count + length) // (2 * length)
    return f"{tenths // 10:,}.{tenths % 10}"


def _short(number: Decimal) -> str:
    """Return a number without zeros at its end."""
    whole, _, decimals = f"{number:,f}".partition(".")
    decimals = decimals.rstrip("0")
    return f"{whole}.{decimals}" if decimals else whole
