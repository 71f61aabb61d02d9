"""Numbers as people write them: whole, decimal, with a unit; exact, bounded, or refused with what would do."""

from __future__ import annotations

import operator
import re
from decimal import Decimal
from fractions import Fraction
from typing import Any, Final

from schedverify.core.units import SIZES

LARGEST: Final = 1 << 62
"""Every number, and every sum of them, stays at or below this; nothing wraps."""

_UNITS: Final = {"": 1} | {name.lower(): length for name, length in SIZES.items()}
_SIZE = re.compile(r"\s*([0-9]{1,30}(?:\.[0-9]{1,30})?)\s*([A-Za-z]{0,3})\s*")
_TICK = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,18})?)\s*(.*)", re.DOTALL)


def exact(value: Any) -> Fraction | None:
    """Return a number as an exact fraction, or None where it is no number, not finite, or absurdly long."""
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, float):
        value = Decimal(float.__repr__(value))
    if isinstance(value, Decimal):
        return _from_decimal(value)
    if isinstance(value, Fraction):
        return value
    try:
        return Fraction(operator.index(value))
    except TypeError:
        return None


def whole(value: Any) -> int | None:
    """Return a number as an int where it is whole and within :data:`LARGEST`, else None."""
    number = exact(value)
    if number is None or number.denominator != 1 or abs(number) > LARGEST:
        return None
    return int(number)


def size(value: Any) -> int | None:
    """Return bytes from a number or from text with a unit (``"1.5 GiB"``), where they are whole, else None."""
    if not isinstance(value, str):
        return whole(value)
    match = _SIZE.fullmatch(value)
    factor = _UNITS.get(match[2].lower()) if match else None
    return whole(Fraction(match[1]) * factor) if match and factor else None


def decimal_places(value: Any) -> int:
    """Return how many decimals a number needs, 0 to 18; 0 for a whole one and for what no decimals express."""
    number = exact(value)
    if number is None:
        return 0
    return next((places for places in range(19) if (number * 10**places).denominator == 1), 0)


def finer_tick(tick: str, places: int) -> str:
    """Return the tick ``10^places`` times finer: ``us`` becomes ``0.1 us``, ``0.1 us`` becomes ``0.01 us``."""
    match = _TICK.fullmatch(tick)
    factor, unit = (Decimal(match[1]), match[2]) if match else (Decimal(1), tick.strip())
    return f"{factor.scaleb(-places).normalize():f} {unit}".strip()


def _from_decimal(value: Decimal) -> Fraction | None:
    if not value.is_finite():
        return None
    if value == 0:
        return Fraction(0)
    if not -40 < value.adjusted() < 40 or len(value.as_tuple().digits) > 60:
        return None
    return Fraction(value)
