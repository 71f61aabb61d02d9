"""JSON Schemas of problem and plan files, made from the table of keys; ``python -m schedverify.formats.schema``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, Final

from schedverify.formats.plan_files import BY_RANK, RATIOS, TICKS, VERSION
from schedverify.problem.keys import FORMS, KEYS, OBJECTIVES, TABLES
from schedverify.result import Status, Verdict

FOLDER: Final = Path("specs") / "schema"
_DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
_LARGEST: Final = 1 << 62

_Schema = dict[str, Any]


def schemas() -> dict[str, str]:
    """Return the text of each schema file by its name."""
    made = {"problem.json": problem_schema(), "plan.json": plan_schema()}
    return {name: json.dumps(schema, indent=2) + "\n" for name, schema in made.items()}


def problem_schema() -> _Schema:
    """Return the schema of a problem file: what each key takes. What holds between keys, the reader checks."""
    tables = {table: _table(table) for table in TABLES}
    boundary = _table("boundary") | {"required": ["from", "to"]}
    top = _table("")["properties"] | tables | {"boundary": _list(boundary)}
    return {
        "$schema": _DRAFT,
        "title": "schedverify problem",
        "type": "object",
        "properties": top,
        "required": ["ranks", "microbatches", "costs"],
        "additionalProperties": False,
    }


def plan_schema() -> _Schema:
    """Return the schema of a plan file. Its problem is one that a problem file could hold."""
    problem = {name: part for name, part in problem_schema().items() if name not in ("$schema", "title")}
    measures = dict.fromkeys(TICKS, _whole()) | dict.fromkeys(RATIOS, _or_null({"type": "string"}))
    properties = {
        "version": {"const": VERSION},
        "problem": problem,
        "schedule": _list(_list({"type": "string"})),
        "lowered": {"type": "null"},
        "timeline": _or_null(_list(_list(_whole()))),
        "measures": _or_null(_closed(measures | dict.fromkeys(BY_RANK, _list(_whole())))),
        "verdicts": {"type": "object", "additionalProperties": {"enum": [verdict.value for verdict in Verdict]}},
        "status": {"enum": [status.value for status in Status]},
        "objective": {"enum": list(OBJECTIVES)},
        "value": _or_null(_whole()),
        "bound": _or_null(_whole()),
        "certificate": _or_null({"type": "object"}),
        "seed": {"type": "integer"},
        "partition": _or_null(_list(_list({"type": "string"}))),
        "digest": {"type": "string", "pattern": "^[0-9a-f]{64}$"},
    }
    return {"$schema": _DRAFT, "title": "schedverify plan", **_closed(properties)}


def main(arguments: list[str]) -> int:
    """Write the schemas, or with ``--check`` say which of them are out of date."""
    stale = []
    for name, text in schemas().items():
        path = FOLDER / name
        if not path.exists() or path.read_text(encoding="utf-8") != text:
            stale.append(str(path))
            if "--check" not in arguments:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(text, encoding="utf-8", newline="\n")
    sys.stdout.write("".join(f"{'out of date' if '--check' in arguments else 'written'}: {path}\n" for path in stale))
    return 1 if stale and "--check" in arguments else 0


def _table(table: str) -> _Schema:
    keys = [key for key in KEYS if key.table == table]
    properties = {key.name: _value(key.shape) | {"description": key.meaning} for key in keys}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _value(shape: str) -> _Schema:
    """Return the schema of a key's value by the shape that the table of keys gives it."""
    if shape == "by micro-batch":
        return _list(_whole())
    kind, _, by = shape.partition(" by ")
    plain = _SHAPES[kind]
    if by == "link":
        return {"anyOf": [plain, _list(_list(plain))]}
    return {"anyOf": [plain, _list(plain)]} if by else dict(plain)


def _whole(least: int = 0) -> _Schema:
    return {"type": "integer", "minimum": least, "maximum": _LARGEST}


def _list(items: _Schema) -> _Schema:
    return {"type": "array", "items": items}


def _or_null(schema: _Schema) -> _Schema:
    return {"anyOf": [schema, {"type": "null"}]}


def _closed(properties: dict[str, Any]) -> _Schema:
    return {
        "type": "object",
        "properties": properties,
        "required": sorted(properties),
        "additionalProperties": False,
    }


_SIZE: Final[_Schema] = {"anyOf": [_whole(), {"type": "string"}]}
_RANKS: Final[_Schema] = {"anyOf": [_whole(), _list(_whole())]}
_PAIR: Final[_Schema] = _closed({"forward": _whole(), "backward": _whole(), "cost": _whole()})
_SHAPES: Final[dict[str, _Schema]] = {
    "version": {"const": 1},
    "text": {"type": "string"},
    "remark": {"type": "string"},
    "remarks": {"type": "object"},
    "count": _whole(1),
    "counts": _whole(),
    "index": _whole(),
    "duration": _whole(),
    "durations": _whole(),
    "size": _SIZE,
    "sizes": _SIZE,
    "flags": {"type": "boolean"},
    "shape": _list(_whole(1)),
    "pairs": _list(_PAIR),
    "edges": _list(_list(_whole()) | {"minItems": 2, "maxItems": 2}),
    "groups": _list(_list(_whole()) | {"minItems": 2}),
    "form": {"enum": list(FORMS)},
    "objective": {"enum": list(OBJECTIVES)},
    "placement": {"anyOf": [{"enum": ["loop", "v"]}, _list({"anyOf": [_RANKS, _list(_RANKS)]})]},
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
