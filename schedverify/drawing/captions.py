"""A time axis: round numbers at even distances, in a unit that keeps them short."""

from __future__ import annotations

from typing import Final, NamedTuple

from schedverify.drawing.labels import plural

_SECONDS: Final = ("ns", "us", "ms", "s")
_SUFFIXES: Final = {1000**power: suffix for power, suffix in enumerate(("", "k", "M", "G", "T", "P"))}


class Axis(NamedTuple):
    """The marks of an axis: ``(tick, label)`` each, and the unit of the labels."""

    marks: tuple[tuple[int, str], ...]
    unit: str


def axis(horizon: int, unit: str, most: int) -> Axis:
    """Return at most ``most`` + 1 marks from 0 to ``horizon``, at a distance of 1, 2 or 5 times a power of ten.

    Parameters
    ----------
    unit
        The problem's ``tick``; among ns, us, ms and s the labels change to a coarser one where that is exact.
    """
    step = _step(horizon, max(most, 1))
    scale, shown = _scaled(step, unit)
    suffix = _SUFFIXES[scale] if shown == unit else ""
    marks = range(0, horizon + 1, step)
    return Axis(tuple((mark, f"{mark // scale}{suffix if mark else ''}") for mark in marks), plural(shown))


def _step(horizon: int, most: int) -> int:
    power = 1
    while True:
        for factor in (1, 2, 5):
            if factor * power * most >= horizon:
                return factor * power
        power *= 10


def _scaled(step: int, unit: str) -> tuple[int, str]:
    scale = 1
    known = unit in _SECONDS
    while step % (1000 * scale) == 0 and 1000 * scale in _SUFFIXES and (not known or unit != "s"):
        scale *= 1000
        unit = _SECONDS[_SECONDS.index(unit) + 1] if known else unit
    return scale, unit
