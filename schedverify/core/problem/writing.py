"""From a Problem to what a person would write: a number for a list of equal ones, and, on request, no defaults."""

from __future__ import annotations

from typing import Any

from schedverify.core.errors import InputError
from schedverify.core.problem.fields import Problem
from schedverify.core.problem.keys import KEYS, TABLES


def brief(problem: Problem) -> dict[str, Any]:
    """Return the data of a problem as a person would write it: a number where all of a list are equal, no empty list.

    An empty ``edges`` stays, since it says that no stage feeds another.
    """
    data = problem.to_dict()
    if data["edges"] == [[stage, stage + 1] for stage in range(problem.stages - 1)]:
        del data["edges"]
    if data["placement"] == [stage % problem.ranks for stage in range(problem.stages)]:
        data["placement"] = "loop"
    for key in (key for key in KEYS if key.table != "boundary"):
        inside = data.get(key.table, {}) if key.table else data
        value = inside.get(key.name)
        if value == [] and key.name != "edges":
            del inside[key.name]
        elif isinstance(value, list) and key.shape.endswith((" by stage", " by rank")):
            inside[key.name] = value[0] if len(set(value)) == 1 else value
    empty = [name for name in (*TABLES, "boundary") if not data[name]]
    return {name: value for name, value in data.items() if name not in empty}


def shortest(problem: Problem) -> dict[str, Any]:
    """Return the data of a problem without every key that says what its absence says; made for small problems."""
    data = brief(problem)
    paths = [(name, key) for name, value in data.items() for key in (value if name in TABLES else ("",))]
    named = data | {"placement": "v"}
    data = named if data["placement"] != "loop" and _makes(named, problem) else data
    for path in paths:
        shorter = _without(data, *path)
        data = shorter if _makes(shorter, problem) else data
    return {name: value for name, value in data.items() if value != {}}


def _without(data: dict[str, Any], name: str, key: str) -> dict[str, Any]:
    if key:
        return data | {name: {other: value for other, value in data[name].items() if other != key}}
    return {other: value for other, value in data.items() if other != name}


def _makes(data: dict[str, Any], problem: Problem) -> bool:
    try:
        return Problem.of(data) == problem
    except InputError:
        return False
