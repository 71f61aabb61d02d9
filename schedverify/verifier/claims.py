"""What can be claimed of a schedule: the names of claims, the type of each, and what a plan claims."""

from __future__ import annotations

import dataclasses
import operator
from collections.abc import Callable, Mapping
from fractions import Fraction
from typing import Any, Final

from schedverify.core.errors import Faults, clean, shown
from schedverify.core.problem.keys import OBJECTIVES
from schedverify.core.result import Plan, Status
from schedverify.core.timeline import Measures

CLAIMABLE: Final = tuple(field.name for field in dataclasses.fields(Measures))
"""The measures, by name."""
GOAL: Final = ("objective", "value", "bound", "certificate")
"""What is claimed of one objective."""


def claims_of(plan: Plan) -> dict[str, Any]:
    """Return what a plan claims of its schedule, in the form that :func:`~schedverify.verify` takes."""
    measures = {name: getattr(plan.measures, name) for name in CLAIMABLE} if plan.measures else {}
    goal = {name: getattr(plan, name) for name in GOAL}
    timeline = {"timeline": plan.starts, "earliest": True} if plan.starts else {}
    return measures | goal | timeline | {"status": plan.status, "then": plan.then and dataclasses.asdict(plan.then)}


def check_claims(claims: Mapping[str, Any]) -> None:
    """Check the names and types of claims; what None stands for is not claimed.

    Raises
    ------
    InputError
        With every claim that is none, or of another type than such a claim has.
    """
    faults = Faults()
    _check_table(faults, "claims", claims, _TYPES)
    then = claims.get("then")
    if isinstance(then, Mapping):
        _check_table(faults, "claims.then", then, {name: _TYPES[name] for name in GOAL})
        if then.get("objective") is None:
            faults.fault("claims.then.objective", "missing", "a second objective has a name")
    faults.raise_faults()


def _check_table(faults: Faults, place: str, table: Mapping[str, Any], types: Mapping[str, _Type]) -> None:
    faults.check_keys(place, table, tuple(types), needed=(), missing="")
    for name, (expected, fits) in types.items():
        value = table.get(name)
        if value is not None and not fits(value):
            faults.fault(f"{place}.{clean(name)}", f"expected {expected}, found {shown(value)}")


def _is_whole(value: Any) -> bool:
    try:
        return not isinstance(value, bool) and operator.index(value) is not None
    except TypeError:
        return False


def _is_ratio(value: Any) -> bool:
    return isinstance(value, Fraction | str) or _is_whole(value)


def _is_row(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(map(_is_whole, value))


_Type = tuple[str, Callable[[Any], bool]]
_WHOLE: Final = ("a whole number", _is_whole)
_RATIO: Final = ('an exact ratio, such as Fraction(15, 4) or "15/4"', _is_ratio)
_ROW: Final = ("a whole number for each rank", _is_row)
_TYPES: Final[Mapping[str, _Type]] = {
    "makespan": _WHOLE, "span": _WHOLE, "bubble_fraction": _RATIO, "bubble_overhead": _RATIO, "span_bubble": _RATIO,
    "work": _ROW, "peak_in_flight": _ROW, "peak_memory": _ROW,
    "timeline": ("a list of starts for each rank", lambda value: isinstance(value, list | tuple)
                 and all(map(_is_row, value))),
    "earliest": ("true or false", lambda value: isinstance(value, bool)),
    "status": (f"one of {', '.join(Status)}", lambda value: value in tuple(Status)),
    "objective": (f"one of {', '.join(OBJECTIVES)}", lambda value: value in OBJECTIVES),
    "value": _WHOLE, "bound": _WHOLE,
    "certificate": ("a mapping", lambda value: isinstance(value, Mapping)),
    "then": ("a mapping", lambda value: isinstance(value, Mapping)),
}  # fmt: skip
