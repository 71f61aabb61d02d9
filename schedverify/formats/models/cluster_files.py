"""Cluster files, in TOML and in JSON, and the decoder that is to be trained there."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final, NamedTuple

from schedverify.core.errors import Fault, Faults, InputError, check_version, clean, shown
from schedverify.core.problem.reader import TableReader
from schedverify.costmodel.decoder import Decoder, Training
from schedverify.costmodel.parallelism import Choices, Cluster
from schedverify.formats.file_kinds import CLUSTER, check_kind
from schedverify.formats.json_toml import parse_either, unfit
from schedverify.formats.models import model_keys
from schedverify.formats.models.decoder_files import described_of, device_of, value_of
from schedverify.formats.models.model_sources import Changes, model_data
from schedverify.formats.text_files import PathLike, naming, read_text

_KEYS: Final = {key.path: key for key in model_keys.CLUSTER_KEYS}
_NEEDED: Final = ("nodes", "devices", "batch")
_MAX_BYTES: Final = 1 << 16
_MOST_DEVICES: Final = 1 << 16
CHOSEN: Final = ("tensor_parallel", "data_parallel", "microbatch_size", "recompute")
"""Keys of ``[training]`` that are chosen for a cluster; if the model's file gives a value, that is the only choice."""


class DecoderFile(NamedTuple):
    """A decoder to be trained, and the values that its file gives for what could be chosen, by key."""

    name: str
    shape: Decoder
    training: Training
    fixed: dict[str, Any]


def load_cluster(path: PathLike, device: str | None = None) -> Cluster:
    """Return the cluster in a file.

    Parameters
    ----------
    device
        A device that comes along, for the keys of ``[device]`` that the file does not give.

    Raises
    ------
    InputError
        With the file's name and every fault in it.
    """
    text = read_text(path, "a cluster in TOML or JSON", _MAX_BYTES)
    with naming(path):
        data = parse_either(text, path)
        check_kind(data, "a cluster", CLUSTER)
        return cluster_from(data, device)


def cluster_from(data: Any, device: str | None = None) -> Cluster:
    """Return the cluster that parsed data describes.

    Raises
    ------
    InputError
        With every fault at once, each with the path of its key.
    """
    if not isinstance(data, Mapping):
        raise InputError(Fault("", f"expected a cluster, an object of keys, found {shown(data)}"))
    reader = TableReader(data, model_keys.CLUSTER_KEYS)
    for fault in unfit(data):
        reader.fault(*fault)
    check_version("version", data.get("version", 1), 1, "write version = 1, or leave it out")
    reader.check_keys("", data, model_keys.cluster_names(""), needed=_NEEDED, missing="a cluster needs it")
    tables: dict[str, Mapping[str, Any]] = {}
    for table in model_keys.CLUSTER_TABLES:
        tables[table] = reader.table(table)
        reader.check_keys(table, tables[table], model_keys.cluster_names(table), needed=(), missing="")
    counts = {name: int(value_of(reader, _KEYS[name], data[name])) if name in data else 1 for name in _NEEDED}
    if counts["nodes"] * counts["devices"] > _MOST_DEVICES:
        message = f"{counts['nodes']} nodes of {counts['devices']} are more than {_MOST_DEVICES} devices"
        reader.fault("nodes", message, "give fewer")
    known = model_keys.cluster_names("choices")
    choices = {name: _choice(reader, name, value) for name, value in tables["choices"].items() if name in known}
    made = device_of(reader, {**tables["device"], **({"like": device} if device else {})})
    reader.raise_faults()
    if made is None:
        raise InputError("the cluster has no device")
    return Cluster(**counts, device=made, choices=Choices(**choices))


def load_decoder(path: PathLike, changes: Changes | None = None) -> DecoderFile:
    """Return the decoder in a model file, or one that comes with schedverify, without a device.

    Parameters
    ----------
    changes
        Keys that replace those of the file, by table (``training``).

    Raises
    ------
    InputError
        With the file's name and every fault in it; also if the model is no decoder.
    """
    with naming(path):
        return _decoder_from(model_data(path, changes or {}), PurePath(path).stem)


def _decoder_from(data: Any, name: str) -> DecoderFile:
    faults, hint = Faults(), "a cluster needs a model by its shape, [decoder]"
    if not isinstance(data, Mapping) or "decoder" not in data:
        raise InputError(Fault("decoder", "missing", hint))
    for fault in unfit(data):
        faults.fault(*fault)
    for key in data:
        if key not in (*model_keys.DECODER_TABLES, "version", "name", "source", "tick"):
            faults.fault(clean(str(key)), "does not go with a cluster", hint)
    for table in ("decoder", "training"):
        if not isinstance(inside := data.get(table, {}), Mapping):
            faults.fault(table, f"expected a table, found {shown(inside)}")
            continue
        faults.check_keys(table, inside, model_keys.model_names(table), needed=(), missing="")
    found = described_of(faults, data)
    faults.raise_faults()
    if found is None:
        raise InputError(Fault("decoder", "missing", hint))
    given = data.get("training", {})
    fixed = {name: (getattr(found[1], name),) for name in CHOSEN if name in given}
    called = data.get("name", name)
    return DecoderFile(called if isinstance(called, str) else name, *found, fixed)


def _choice(faults: Faults, name: str, value: Any) -> tuple[Any, ...]:
    """Return the values among which a degree is chosen, one or more, without repeats."""
    key = _KEYS[f"choices.{name}"]
    plain = key._replace(shape=key.shape.removesuffix(" by choice"))
    values = value if isinstance(value, list) else [value]
    if not values:
        faults.fault(key.path, "expected at least one choice, found none", key.meaning)
    return tuple(dict.fromkeys(value_of(faults, plain, choice) for choice in values))
