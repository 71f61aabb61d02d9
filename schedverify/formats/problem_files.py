"""Problem files, in TOML and in JSON: text to Problem and back."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from schedverify.core.errors import Fault, InputError, shown
from schedverify.core.problem import Problem
from schedverify.core.problem.keys import TABLES
from schedverify.core.problem.writing import brief, shortest
from schedverify.formats.json_toml import parse_json, parse_toml, unfit


def parse_problem(text: str, form: str) -> Problem:
    """Return the problem that a text in ``form`` (``toml`` or ``json``) describes.

    Raises
    ------
    InputError
        With every fault at once: syntax errors with line and column, all others with the path of the key.
    """
    return problem_from(parse_toml(text) if form == "toml" else parse_json(text))


def problem_from(data: Any) -> Problem:
    """Return the problem that parsed data describes; see :func:`parse_problem`."""
    if not isinstance(data, Mapping):
        raise InputError(Fault("", f"expected a problem, an object of keys, found {shown(data)}"))
    faults = {fault.key: fault for fault in unfit(data)}
    try:
        problem = Problem.of(data)
    except InputError as error:
        faults = {fault.key: fault for fault in error.faults} | faults
    if faults:
        raise InputError(faults.values())
    return problem


def to_toml(problem: Problem, *, defaults: bool = True) -> str:
    """Return the TOML text of a problem, or, of a small one, the shortest; it reads back as an equal problem."""
    data = brief(problem) if defaults else shortest(problem)
    lines = list(toml_lines({name: value for name, value in data.items() if name not in (*TABLES, "boundary")}))
    for table in TABLES:
        if data.get(table):
            lines += ["", f"[{table}]", *toml_lines(data[table])]
    for row in data.get("boundary", ()):
        lines += ["", "[[boundary]]", *toml_lines(row)]
    return "\n".join(lines) + "\n"


def to_json(problem: Problem) -> str:
    """Return the JSON text of a problem, a line for each key; it reads back as an equal one."""
    return "{\n" + ",\n".join(_json_members(brief(problem), "  ")) + "\n}\n"


def toml_lines(table: Mapping[str, Any]) -> Iterator[str]:
    """Yield the line of each key of a table in TOML."""
    return (f"{name} = {toml_value(value)}" for name, value in table.items())


def toml_value(value: Any) -> str:
    """Return a value in TOML; its strings must be without control characters."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{name} = {toml_value(item)}" for name, item in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml_value, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _json_members(data: Mapping[str, Any], indent: str) -> Iterator[str]:
    for name, value in data.items():
        if isinstance(value, dict):
            yield f'{indent}"{name}": {{\n' + ",\n".join(_json_members(value, indent * 2)) + f"\n{indent}}}"
        else:
            yield f'{indent}"{name}": {json.dumps(value, ensure_ascii=False)}'
