"""Model files, in TOML and in JSON: layers with their costs, or a decoder's shape, and what a partition keeps to.

They are read, and written with their layers.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, replace
from pathlib import PurePath
from typing import Any, Final

from schedverify.core.errors import Fault, InputError, check_version, nearest, shown
from schedverify.core.model import Devices, Layer, Model, PartitionConstraints
from schedverify.core.problem.reader import TableReader
from schedverify.core.units import unit_of
from schedverify.costmodel.decoder import DECODER_UNIT
from schedverify.formats.json_toml import unfit
from schedverify.formats.models.decoder_files import model_of
from schedverify.formats.models.model_keys import DECODER_TABLES, MODEL_KEYS, MODEL_TABLES, model_names
from schedverify.formats.models.model_sources import Changes, model_data
from schedverify.formats.models.pipedream import parse_profile
from schedverify.formats.models.ties import ties_data, ties_in
from schedverify.formats.problem_files import toml_text
from schedverify.formats.text_files import PathLike, naming, write_text
from schedverify.partitioner.sums import check_sums, faults_of_sums

MOST_LAYERS: Final = 100_000
KINDS: Final = ("", "embedding", "decoder", "mtp", "loss")


def model_from(data: Any) -> Model:
    """Return the model that parsed data describes.

    Raises
    ------
    InputError
        With every fault at once, each with the path of its key.
    """
    if not isinstance(data, Mapping):
        raise InputError(Fault("", f"expected a model, an object of keys, found {shown(data)}"))
    check_version("version", data.get("version", 1), 1, "write version = 1, or leave it out")
    reader = _ModelReader(data)
    for fault in unfit(data):
        reader.fault(*fault)
    model = reader.model()
    reader.raise_faults()
    if model is None:
        raise InputError("the model has no layer")
    return model


class _ModelReader(TableReader):
    """The data of a model and the faults found in it so far."""

    def __init__(self, data: Mapping[str, Any]) -> None:
        super().__init__(data, MODEL_KEYS)
        self.names: dict[str, int] = {}
        """The position of the first layer of each name; a repeated layer has a name for all and one for each."""
        self.rows: list[int] = []
        """By layer that was read so far, the number of its row in the file."""

    def model(self) -> Model | None:
        self._check_keys("", "", self.data)
        name = self.plain_text("name", self.data.get("name", ""))
        tick = self.plain_text("tick", self.data.get("tick", "us" if "decoder" in self.data else "tick"))
        tables = {table: self.table(table) for table in MODEL_TABLES}
        for table, inside in tables.items():
            self._check_keys(table, table, inside)
        layers, tied, own = self._parts(name, tick)
        if not layers:
            return None
        self.names = {layer.name: i for i, layer in enumerate(layers)}
        edges, (groups, weights) = self._edges(), ties_in(self, self.data.get("tied", ()), self.group)
        constraints, devices = self._constraints(tables["partition"]), self._devices(tables["devices"], own)
        unit = self._unit()
        if self.found:
            return None
        model = Model(name, layers, tick, edges, tied + groups, constraints, devices, unit, weights)
        for fault in faults_of_sums(model, self._key_of):
            self.fault(*fault)
        return model

    def _unit(self) -> str:
        """Return the unit that bytes are told in; a decoder's are computed, and have that of its device's memory."""
        told = self.unit("unit", self.data.get("unit"), "devices.memory")
        return told or ((unit_of(self.table("device").get("memory")) or DECODER_UNIT) if "decoder" in self.data else "")

    def _key_of(self, position: int, name: str) -> str:
        """Return the key of a layer's value; of a decoder's layers its table."""
        return f"layer[{self.rows[position]}].{name}" if self.rows else "decoder"

    def _parts(self, name: str, tick: str) -> tuple[tuple[Layer, ...], tuple[tuple[int, ...], ...], Devices]:
        """Return layers, ties and devices: of a decoder, or the layers that stand in the file."""
        rows = self.items("layer", self.data.get("layer", ()))
        if "decoder" in self.data:
            if rows:
                self.fault("layer", "a model has [[layer]] or [decoder], not both", "leave out one of them")
            made = model_of(self, self.data, name, tick)
            return (made.layers, made.tied, made.devices) if made else ((), (), Devices())
        for table in DECODER_TABLES:
            if table in self.data:
                self.fault(table, "is for a [decoder], and there is none", "write [decoder] and its keys, or like")
        if not rows:
            self.fault("layer", "the model has no layer", "write [[layer]] and its keys below, or [decoder]")
        return tuple(layer for i, row in enumerate(rows) for layer in self._layers(i, row)), (), Devices()

    def _layers(self, number: int, row: Any) -> list[Layer]:
        place = f"layer[{number}]"
        if not isinstance(row, Mapping):
            self.fault(place, f"expected a table, found {shown(row)}")
            return []
        self._check_keys("layer", place, row)
        values = {name: self._number(f"{place}.{name}", row[name]) for name in _numbers() if name in row}
        self._check_parts(place, values)
        repeat = self._repeat(place, values.pop("repeat", 1))
        self.rows += [number] * repeat
        if "backward" not in values and {"backward_input", "backward_weight"} <= set(values):
            values["backward"] = values["backward_input"] + values["backward_weight"]
        name, kind = self.plain_text(f"{place}.name", row.get("name", f"layer{number}")), row.get("kind", "")
        if kind != "":
            self.is_one_of(f"{place}.kind", kind, KINDS[1:])
        names = [name] if repeat == 1 else [f"{name}{i}" for i in range(repeat)]
        return [Layer(own, kind=str(kind), **values) for own in names]

    def _repeat(self, place: str, repeat: int) -> int:
        """Return how often a layer is repeated; if that makes too many layers, add a fault and return 1."""
        if len(self.rows) + repeat > MOST_LAYERS:
            self.fault(f"{place}.repeat", f"{repeat} makes too many layers", f"a model has at most {MOST_LAYERS}")
            return 1
        return repeat

    def _check_parts(self, place: str, values: Mapping[str, int]) -> None:
        """Check that parts are no more than their whole, and that half a backward does not stand alone."""
        for part in ("entry", "weight_stash"):
            if values.get(part, 0) > values.get("activation", 0):
                self.fault(f"{place}.{part}", f"{values[part]} is more than the activation, of which it is a part")
        known = values.keys() & {"backward_input", "backward_weight"}
        if len(known) == 1 and "backward" not in values:
            (missing,) = {"backward_input", "backward_weight"} - known
            self.fault(f"{place}.{missing}", f"missing beside {known.pop()}", "give both, or backward")

    def _edges(self) -> tuple[tuple[int, int], ...] | None:
        if "edges" not in self.data:
            return None
        groups = self._groups("edges", self.data["edges"])
        for i, group in enumerate(groups):
            if len(group) != 2:
                self.fault(f"edges[{i}]", f"expected two layers, found {len(group)}", "the one that feeds comes first")
        return tuple((group[0], group[1]) for group in groups if len(group) == 2)

    def _constraints(self, table: Mapping[str, Any]) -> PartitionConstraints:
        pinned = []
        for i, pair in enumerate(self.items("partition.pinned", table.get("pinned", ()))):
            if isinstance(pair, list) and len(pair) == 2 and type(pair[1]) is int:
                pinned.append((self._layer(f"partition.pinned[{i}][0]", pair[0]), pair[1]))
            else:
                self.fault(f"partition.pinned[{i}]", f"expected a layer and its stage, found {shown(pair)}")
        together = self._groups("partition.together", table.get("together", ()))
        alone = self.items("partition.alone", table.get("alone", ()))
        alone_at = tuple(self._layer(f"partition.alone[{i}]", name) for i, name in enumerate(alone))
        return PartitionConstraints(tuple(pinned), together, alone_at)

    def _devices(self, table: Mapping[str, Any], own: Devices) -> Devices:
        values: dict[str, Any] = {}
        for name, value in table.items():
            if name in ("memory", "slowness"):
                items = value if isinstance(value, list) else [value]
                values[name] = tuple(self._number(f"devices.{name}", item) for item in items)
                if name == "slowness" and not items:
                    self.fault("devices.slowness", "no value", "one for all ranks, or one for each")
            elif name in ("latency", "bandwidth"):
                values[name] = self._number(f"devices.{name}", value)
        return own if self.found else replace(own, **values)

    def _groups(self, path: str, value: Any) -> tuple[tuple[int, ...], ...]:
        return tuple(self.group(f"{path}[{i}]", group) for i, group in enumerate(self.items(path, value)))

    def group(self, path: str, group: Any) -> tuple[int, ...]:
        """Return the positions of at least two layers that are named."""
        members = self.items(path, group)
        if len(members) < 2:
            self.fault(path, f"expected at least two layers, found {len(members)}")
        return tuple(self._layer(f"{path}[{j}]", name) for j, name in enumerate(members))

    def _layer(self, key: str, name: Any) -> int:
        if isinstance(name, str) and name in self.names:
            return self.names[name]
        hint = nearest(name, self.names) if isinstance(name, str) else "layers are named in quotes"
        self.fault(key, f"no layer is called {shown(name)}", hint)
        return 0

    def _number(self, place: str, value: Any) -> int:
        key = self.key_at(place)
        return self.number(place, value, 1 if key and key.shape.startswith("count") else 0)

    def _check_keys(self, table: str, place: str, inside: Mapping[str, Any]) -> None:
        self.check_keys(place, inside, model_names(table), needed=(), missing="")


def _numbers() -> list[str]:
    return [key.name for key in MODEL_KEYS if key.table == "layer" and key.shape not in ("text", "remarks")]


def load_model(path: PathLike, changes: Changes | None = None) -> Model:
    """Return the model in a file: TOML, JSON, or a profile of PipeDream; or one that comes with schedverify, by name.

    Parameters
    ----------
    changes
        Keys that replace those of the file, by table (``training``, ``device``).

    Raises
    ------
    InputError
        With the file's name and every fault in it.
    """
    with naming(path):
        data = model_data(path, changes or {})
        model = parse_profile(data, PurePath(path).stem) if isinstance(data, str) else model_from(data)
        check_sums(model)
        return model


def check_model_suffix(path: PathLike) -> None:
    """Raise an InputError where a model has no form for a file of that name."""
    suffix = PurePath(path).suffix.lower()
    if suffix not in ("", ".json", ".toml"):
        raise InputError(Fault("", f"a model has no form {suffix[1:]!r}", "save it as .toml or .json"))


def save_model(model: Model, path: PathLike, *, source: str = "", spread: Mapping[str, Any] | None = None) -> None:
    """Write a model file: JSON where the name ends so, else TOML; ``-`` is standard output.

    Parameters
    ----------
    source, spread
        Remarks for readers of the file: where its figures come from, and the quartiles of what was measured, by layer.

    Raises
    ------
    InputError
        If it cannot be written, or its name ends in something else.
    """
    with naming(path):
        check_model_suffix(path)
    data = data_of(model)
    if source:
        data = {"version": data.pop("version"), "name": data.pop("name"), "source": source} | data
    for row in data["layer"]:
        if spread and row["name"] in spread:
            row["spread"] = spread[row["name"]]
    write_text(path, _to_json(data) if PurePath(path).suffix == ".json" else toml_text(data, ("layer", *MODEL_TABLES)))


def data_of(model: Model) -> dict[str, Any]:
    """Return the data of a model file that reads back as an equal model; what has its default is left out."""
    names = [layer.name for layer in model.layers]
    data: dict[str, Any] = {"version": 1, "name": model.name, "tick": model.tick}
    if model.unit:
        data["unit"] = model.unit
    if model.edges is not None:
        data["edges"] = [[names[source], names[target]] for source, target in model.edges]
    if model.tied:
        data["tied"] = ties_data(model, names)
    data["layer"] = [_layer(layer) for layer in model.layers]
    tables = {"devices": _devices(model.devices), "partition": _constraints(model.constraints, names)}
    return data | {name: table for name, table in tables.items() if table}


def _layer(layer: Layer) -> dict[str, Any]:
    own = [key.name for key in MODEL_KEYS if key.table == "layer" and hasattr(layer, key.name)]
    return {name: value for name in own if (value := getattr(layer, name)) not in (0, None, "")}


def _devices(devices: Devices) -> dict[str, Any]:
    values = {name: value for name, value in asdict(devices).items() if value != getattr(Devices(), name)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in values.items()}


def _constraints(constraints: PartitionConstraints, names: list[str]) -> dict[str, Any]:
    table: dict[str, Any] = {
        "pinned": [[names[layer], stage] for layer, stage in constraints.pinned],
        "together": [[names[layer] for layer in group] for group in constraints.together],
        "alone": [names[layer] for layer in constraints.alone],
    }
    return {name: value for name, value in table.items() if value}


def _to_json(data: Mapping[str, Any]) -> str:
    """Return JSON with a line for each key and each layer."""
    rows = ",\n".join(f"    {json.dumps(row, ensure_ascii=False)}" for row in data["layer"])
    members = [
        f'  "layer": [\n{rows}\n  ]' if name == "layer" else f'  "{name}": {json.dumps(value, ensure_ascii=False)}'
        for name, value in data.items()
    ]
    return "{\n" + ",\n".join(members) + "\n}\n"
