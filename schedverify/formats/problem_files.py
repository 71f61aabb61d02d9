"""Problem files, in TOML and in JSON: text to Problem and back, and the commented one that ``schedverify new`` prints.

The commented file has every key, its meaning, and a valid value.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from schedverify.core.errors import Fault, InputError, shown
from schedverify.core.problem import Problem
from schedverify.core.problem.keys import KEYS, TABLES, Key
from schedverify.core.problem.writing import brief, shortest
from schedverify.formats.json_toml import unfit


def problem_from(data: Any) -> Problem:
    """Return the problem that parsed data describes.

    Raises
    ------
    InputError
        With every fault at once, each with the path of its key.
    """
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
    return toml_text(data, (*TABLES, "boundary"))


def to_json(problem: Problem) -> str:
    """Return the JSON text of a problem with a line for each key; it reads back as an equal problem."""
    return "{\n" + ",\n".join(_json_members(brief(problem), "  ")) + "\n}\n"


def toml_text(data: Mapping[str, Any], sections: Sequence[str]) -> str:
    """Return data in TOML: its plain keys, then those sections that are in it, each a table or a list of tables."""
    lines = _toml_lines({name: value for name, value in data.items() if name not in sections})
    for name in sections:
        section = data.get(name) or ()
        if isinstance(section, dict):
            lines += ["", f"[{name}]", *_toml_lines(section)]
        else:
            lines += [line for row in section for line in ("", f"[[{name}]]", *_toml_lines(row))]
    return "\n".join(lines) + "\n"


def _toml_lines(table: Mapping[str, Any]) -> list[str]:
    return [f"{name} = {toml_value(value)}" for name, value in table.items()]


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


_SET: Final = {
    "version": "1",
    "name": '"my-problem"',
    "ranks": "4",
    "microbatches": "8",
    "costs.forward": "1",
    "costs.backward_input": "1",
    "costs.backward_weight": "1",
}
"""The keys that the template sets; all others stand behind a # with an example."""
_EXAMPLES: Final = {
    "source": '"measured on our cluster"',
    "virtual": "1",
    "stages": "4",
    "placement": '"loop"',
    "form": '"split"',
    "tick": '"us"',
    "edges": "[[0, 1], [1, 2], [2, 3]]",
    "tied": "[[0, 3]]",
    "partition": '[["a"], ["b"], ["c"], ["d"]]',
    "replicas": "1",
    "replica_of": "[0, 0, 0, 0, 0, 0, 0, 0]",
    "slices": "1",
    "expected": "{ makespan = 27 }",
    "costs.backward": "2",
    "costs.overlapped": "[{forward=0, backward=3, cost=3}]",
    "links.latency": "0",
    "links.bytes": "16777216",
    "links.bandwidth": "25000000",
    "links.buffer": "4",
    "memory.unit": '"GiB"',
    "memory.activation": "2",
    "memory.weight_stash": "1",
    "memory.recompute": "false",
    "memory.boundary": "0",
    "memory.static": "[0, 0, 0, 0]",
    "memory.capacity": "8",
    "limits.in_flight": "4",
    "limits.in_flight_stage": "[4, 3, 2, 1]",
    "limits.makespan": "100",
    "limits.outstanding_sends": "2",
    "limits.unsharded": "3",
    "objective.minimize": '"makespan"',
    "objective.then": '"peak-memory"',
    "boundary.from": "0",
    "boundary.to": "1",
    "boundary.shape": "[4, 1024]",
    "boundary.dtype": '"bfloat16"',
    "boundary.bytes": "8192",
}
_HEAD: Final = """\
# A problem for schedverify: what is to be scheduled. Durations are whole ticks; memory is whole bytes, or
# text such as "1.5 GiB". A key by stage, rank or link takes one value for all, or a list with one for each.
# Take the # away from a key to set it.
"""
_COLUMN: Final = 47


def new() -> str:
    """Return a commented problem file to begin with: valid as it stands, every key with its meaning and an example."""
    parts = [_HEAD, *_lines("")]
    for table in TABLES:
        parts += ["", f"[{table}]", *_lines(table)]
    parts += ["", "# [[boundary]]" + " " * 34 + "# what may cross from one stage to another; one for each tensor"]
    return "\n".join([*parts, *_lines("boundary")]) + "\n"


def _lines(table: str) -> list[str]:
    return [_line(key) for key in KEYS if key.table == table]


def _line(key: Key) -> str:
    value = _SET.get(key.path)
    setting = f"{key.name} = {value}" if value is not None else f"# {key.name} = {_EXAMPLES[key.path]}"
    by = key.shape.rpartition(" by ")[2] if " by " in key.shape else ""
    notes = [f"by {by}"] if by else []
    notes += [f"default {key.default}"] if key.default else []
    return f"{setting:<{_COLUMN}} # {key.meaning}" + (f" [{'; '.join(notes)}]" if notes else "")
