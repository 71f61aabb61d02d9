"""Where the data of a model comes from: a file, or a decoder that comes with schedverify, with changes on top."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path, PurePath
from typing import Any, Final

from schedverify.core.errors import Fault, InputError, nearest
from schedverify.formats.file_kinds import DECODER, MODEL, check_kind
from schedverify.formats.json_toml import parse_either
from schedverify.formats.models.decoder_files import known
from schedverify.formats.models.pipedream import looks_like_profile
from schedverify.formats.text_files import PathLike, read_text

Changes = Mapping[str, Mapping[str, Any]]
"""Keys that replace those of a model file, by table (``training``, ``device``)."""
_MAX_BYTES: Final = 1 << 23


def model_data(path: PathLike, changes: Changes) -> Any:
    """Return the data of a model; for a profile of PipeDream, return its text.

    Raises
    ------
    InputError
        If there is no such file and no decoder of that name, it is no TOML and no JSON, or a profile is to be changed.
    """
    if (found := _by_name(os.fspath(path))) is not None:
        return _changed(found, changes)
    text = read_text(path, "a model in TOML or JSON, or a profile of PipeDream", _MAX_BYTES)
    if looks_like_profile(text):
        if not changes:
            return text
        raise InputError([Fault(table, "is for a decoder, and this is a profile of PipeDream") for table in changes])
    data = parse_either(text, path)
    check_kind(data, "a model", MODEL, DECODER)
    return _changed(data, changes)


def _by_name(name: str) -> dict[str, Any] | None:
    """Return the data of a decoder that comes with schedverify; return None if the name is that of a file."""
    if name == "-" or PurePath(name).suffix or PurePath(name).name != name or Path(name).exists():
        return None
    if name in known("decoder"):
        return {"name": name, "decoder": {"like": name}}
    hint = nearest(name, known("decoder")) or f"those that come along: {', '.join(known('decoder'))}"
    raise InputError(Fault("", "there is no such file, and no model of this name comes with schedverify", hint))


def _changed(data: Any, changes: Changes) -> Any:
    """Change the tables in place, so that what the parser noted of them (keys that stand twice) stays."""
    for table, values in changes.items() if isinstance(data, dict) else ():
        inside = data.setdefault(table, {})
        if isinstance(inside, dict):
            inside.update(values)
    return data
