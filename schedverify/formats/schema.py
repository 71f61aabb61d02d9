"""All JSON Schemas; those of problems, models and clusters come from their tables of keys.

``python -m schedverify.formats.schema`` writes them.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Final

from schedverify.core.problem.keys import FORMS, KEYS, OBJECTIVES, TABLES, Key
from schedverify.core.units import SIZES
from schedverify.costmodel.decoder import DTYPES, RECOMPUTE
from schedverify.formats import output_schemas
from schedverify.formats.models.model_keys import CLUSTER_KEYS, CLUSTER_TABLES, MODEL_KEYS, MODEL_TABLES
from schedverify.formats.output_schemas import TEXT, Schema, closed, listed, one_of, titled, whole

FOLDER: Final = Path("specs") / "schema"


def schemas() -> dict[str, str]:
    """Return the text of each schema file by its name."""
    made = {
        "problem.json": titled("schedverify problem", problem_schema()),
        "plan.json": titled("schedverify plan", output_schemas.plan_schema(problem_schema())),
        "report.json": output_schemas.report_schema(),
        "optimize.json": output_schemas.search_schema(),
        "simulate.json": output_schemas.timeline_schema(),
        "conform.json": output_schemas.conformance_schema(),
        "observed.json": output_schemas.observed_schema(),
        "trace.json": output_schemas.run_schema(),
        "boundaries.json": output_schemas.boundaries_schema(),
        "model.json": titled("schedverify model", model_schema()),
        "cluster.json": titled("schedverify cluster", cluster_schema()),
        "advice.json": output_schemas.advice_schema(),
        "partition.json": output_schemas.partition_schema(),
    }
    return {name: json.dumps(schema, indent=2) + "\n" for name, schema in made.items()}


def problem_schema() -> Schema:
    """Return the schema of a problem file: the values of each key. The reader checks how keys depend on each other."""
    tables = {table: _object(table) for table in TABLES}
    boundary = _object("boundary") | {"required": ["from", "to"]}
    top = _object("")["properties"] | tables | {"boundary": listed(boundary)}
    needed = ["ranks", "microbatches", "costs"]
    return {"type": "object", "properties": top, "required": needed, "additionalProperties": False}


def model_schema() -> Schema:
    """Return the schema of a model file: the values of each key. The reader checks how keys depend on each other."""
    tables = {table: _object(table, MODEL_KEYS) for table in ("", "layer", "tied", *MODEL_TABLES)}
    ties = listed({"anyOf": [listed(TEXT), tables["tied"] | {"required": ["layers"]}]})
    tied = tables[""]["properties"]["tied"] | ties
    rows = {"layer": listed(tables["layer"]) | {"minItems": 1}, "tied": tied}
    top = tables[""]["properties"] | rows | {table: tables[table] for table in MODEL_TABLES}
    return tables[""] | {"properties": top, "anyOf": [{"required": ["layer"]}, {"required": ["decoder"]}]}


def cluster_schema() -> Schema:
    """Return the schema of a cluster file: the values of each key."""
    tables = {table: _object(table, CLUSTER_KEYS) for table in ("", *CLUSTER_TABLES)}
    top = tables[""]["properties"] | {table: tables[table] for table in CLUSTER_TABLES}
    return tables[""] | {"properties": top, "required": ["nodes", "devices", "batch"]}


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


def _object(table: str, known: Iterable[Key] = KEYS) -> Schema:
    keys = [key for key in known if key.table == table]
    properties = {key.name: _value(key.shape) | {"description": key.meaning} for key in keys}
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _value(shape: str) -> Schema:
    """Return the schema of a key's value by the shape that the table of keys gives it."""
    if shape == "by micro-batch":
        return listed(whole())
    kind, _, by = shape.partition(" by ")
    plain = _SHAPES[kind]
    if by == "link":
        return {"anyOf": [plain, listed(listed(whole()))]}
    return {"anyOf": [plain, listed(plain)]} if by else dict(plain)


_UNIT: Final = r"^\s*[0-9]+(\.[0-9]+)?\s*([KkMmGgTtPp]?[Ii]?[Bb])?\s*$"
_SIZE: Final[Schema] = {"anyOf": [whole(), TEXT | {"pattern": _UNIT}]}
_RANKS: Final[Schema] = {"anyOf": [whole(), listed(whole())]}
_PAIR: Final[Schema] = closed({"forward": whole(), "backward": whole(), "cost": whole()})
_SHAPES: Final[dict[str, Schema]] = {
    "version": {"const": 1},
    "text": TEXT,
    "remark": TEXT,
    "remarks": {"type": "object"},
    "count": whole(1),
    "counts": whole(1),
    "index": whole(),
    "duration": whole(1),
    "durations": whole(),
    "size": _SIZE,
    "sizes": _SIZE,
    "unit": one_of(tuple(SIZES)),
    "flags": {"type": "boolean"},
    "flag": {"type": "boolean"},
    "whole": whole(),
    "rate": {"anyOf": [{"type": "number", "minimum": 1}, TEXT | {"pattern": _UNIT}]},
    "share": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
    "seconds": {"type": "number", "minimum": 0, "maximum": 1},
    "dtype": one_of(DTYPES),
    "recompute": one_of(RECOMPUTE),
    "shape": listed(whole(1)),
    "pairs": listed(_PAIR),
    "names": listed({"anyOf": [TEXT, listed(TEXT)]}),
    "layers": listed(listed(TEXT)),
    "ties": {"type": "array"},
    "pins": listed({"type": "array", "minItems": 2, "maxItems": 2}),
    "edges": listed(listed(whole()) | {"minItems": 2, "maxItems": 2}),
    "groups": listed(listed(whole()) | {"minItems": 2}),
    "form": one_of(FORMS),
    "objective": one_of(OBJECTIVES),
    "placement": {"anyOf": [{"enum": ["loop", "v"]}, listed({"anyOf": [_RANKS, listed(_RANKS)]})]},
}

if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
