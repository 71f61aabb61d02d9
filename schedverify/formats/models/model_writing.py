"""Writes model files, in TOML and in JSON."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import PurePath
from typing import Any

from schedverify.core.model import Devices, Layer, Model, PartitionConstraints
from schedverify.formats.models.model_keys import MODEL_KEYS, MODEL_TABLES
from schedverify.formats.problem_files import toml_lines
from schedverify.formats.text_files import PathLike, write_text


def save_model(model: Model, path: PathLike, *, source: str = "", spread: Mapping[str, Any] | None = None) -> None:
    """Write a model file: JSON where the name ends so, else TOML; ``-`` is standard output.

    Parameters
    ----------
    source, spread
        Remarks: where the figures come from, and by layer how far what was measured spreads.

    Raises
    ------
    InputError
        If it cannot be written.
    """
    data = model_data(model)
    if source:
        data = {"version": data.pop("version"), "name": data.pop("name"), "source": source} | data
    for row in data["layer"]:
        if spread and row["name"] in spread:
            row["spread"] = spread[row["name"]]
    write_text(path, _to_json(data) if PurePath(path).suffix == ".json" else "\n".join(_toml_lines(data)) + "\n")


def model_data(model: Model) -> dict[str, Any]:
    """Return the data of a model file that reads back as an equal model; what has its default is left out."""
    names = [layer.name for layer in model.layers]
    data: dict[str, Any] = {"version": 1, "name": model.name, "tick": model.tick}
    if model.edges is not None:
        data["edges"] = [[names[source], names[target]] for source, target in model.edges]
    if model.tied:
        data["tied"] = [[names[i] for i in group] for group in model.tied]
    data["layer"] = [_layer(layer) for layer in model.layers]
    tables = {"devices": _devices(model.devices), "partition": _wishes(model.wishes, names)}
    return data | {name: table for name, table in tables.items() if table}


def _layer(layer: Layer) -> dict[str, Any]:
    own = [key.name for key in MODEL_KEYS if key.table == "layer" and hasattr(layer, key.name)]
    return {name: value for name in own if (value := getattr(layer, name)) not in (0, None, "")}


def _devices(devices: Devices) -> dict[str, Any]:
    values = {name: value for name, value in asdict(devices).items() if value != getattr(Devices(), name)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _wishes(wishes: PartitionConstraints, names: list[str]) -> dict[str, Any]:
    table: dict[str, Any] = {
        "pinned": [[names[layer], stage] for layer, stage in wishes.pinned],
        "together": [[names[layer] for layer in group] for group in wishes.together],
        "alone": [names[layer] for layer in wishes.alone],
    }
    return {name: value for name, value in table.items() if value}


def _toml_lines(data: Mapping[str, Any]) -> Iterator[str]:
    yield from toml_lines({name: value for name, value in data.items() if name not in ("layer", *MODEL_TABLES)})
    for row in data["layer"]:
        yield from ("", "[[layer]]", *toml_lines(row))
    for table in MODEL_TABLES:
        if table in data:
            yield from ("", f"[{table}]", *toml_lines(data[table]))


def _to_json(data: Mapping[str, Any]) -> str:
    """Return JSON with a line for each key and each layer."""
    rows = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in data["layer"])
    members = [
        f'  "layer": [\n{rows}\n  ]' if name == "layer" else f'  "{name}": {json.dumps(value, ensure_ascii=False)}'
        for name, value in data.items()
    ]
    return "{\n" + ",\n".join(members) + "\n}\n"
