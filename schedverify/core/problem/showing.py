"""Values of a file as short text for a message: bounded, and free of control characters."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_LONGEST: Final = 60


def shown(value: Any) -> str:
    """Return a short, safe text for a value in a message."""
    if isinstance(value, Mapping):
        return "a table"
    if isinstance(value, list | tuple):
        return f"a list of {len(value)}"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, int) and value.bit_length() > 200:
        return "an integer of more than 60 digits"
    if isinstance(value, str):
        return clean(repr(value[:_LONGEST]))
    return clean(str(value))


def clean(text: str, longest: int = _LONGEST) -> str:
    """Return the beginning of a text, with everything escaped that could steer a terminal."""
    text = text[:longest]
    return text if text.isprintable() else ascii(text)[1:-1][:longest]
