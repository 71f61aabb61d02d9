"""The parts that JSON Schemas are made of."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

from schedverify.core.problem.numbers import LARGEST
from schedverify.formats.plan_files import DIGEST

Schema = dict[str, Any]
DRAFT: Final = "https://json-schema.org/draft/2020-12/schema"
TEXT: Final[Schema] = {"type": "string"}
RATIO_TEXT: Final[Schema] = {"type": "string", "pattern": "^[0-9]+(/[1-9][0-9]*)?$"}
DIGEST_TEXT: Final[Schema] = {"type": "string", "pattern": f"^{DIGEST.pattern}$"}
CODE: Final = "^SV[0-9]+$"


def whole(least: int = 0) -> Schema:
    """Return the schema of a whole number from ``least`` to 2^62."""
    return {"type": "integer", "minimum": least, "maximum": LARGEST}


def listed(items: Schema) -> Schema:
    """Return the schema of a list."""
    return {"type": "array", "items": items}


def one_of(values: Iterable[str]) -> Schema:
    """Return the schema of a text that is one of some."""
    return {"enum": [str(value) for value in values]}


def or_null(schema: Schema) -> Schema:
    """Return the schema of a value or null."""
    return {"anyOf": [schema, {"type": "null"}]}


def closed(properties: Schema) -> Schema:
    """Return the schema of an object with exactly these keys."""
    return {"type": "object", "properties": properties, "required": sorted(properties), "additionalProperties": False}


def titled(title: str, schema: Schema) -> Schema:
    """Return a schema as it stands in a file of its own."""
    return {"$schema": DRAFT, "title": title, **schema}
