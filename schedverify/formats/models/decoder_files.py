"""The tables of a model file that describe a decoder by its shape, and the models and devices that come along."""

from __future__ import annotations

import re
from collections.abc import Mapping
from fractions import Fraction
from functools import cache
from importlib import resources
from typing import Any, Final

from schedverify.core.errors import Faults, InputError, clean, nearest, shown
from schedverify.core.model import Model
from schedverify.core.problem.keys import Key
from schedverify.core.problem.numbers import LARGEST, exact, size, whole
from schedverify.costmodel.decoder import DTYPES, RECOMPUTE, Decoder, Device, Training, decoder_model
from schedverify.costmodel.decoder.device import Link
from schedverify.formats.json_toml import parse_toml
from schedverify.formats.models.model_keys import MODEL_KEYS

Table = Mapping[str, Any]
KNOWN: Final = {"decoder": "models", "device": "devices"}
"""The file with the names that the key ``like`` may have, by the table in which the key stands."""
CHOICES: Final = {"dtype": tuple(DTYPES), "recompute": RECOMPUTE, "flag": (True, False)}
_TICK: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)?\s*(s|ms|us|ns)")
_UNITS: Final = {"s": 1, "ms": 10**3, "us": 10**6, "ns": 10**9}
_NEEDED: Final = {
    "decoder": ("layers", "hidden", "heads", "vocabulary"),
    "training": ("sequence",),
    "device": ("peak",),
}
_MOST: Final = {"layers": 100_000}
_NUMBERS: Final = 1 << 31


@cache
def known(table: str) -> dict[str, dict[str, Any]]:
    """Return the decoders or devices that come with schedverify, by name; each is the keys of its table."""
    text = resources.files("schedverify.costmodel.decoder").joinpath("known", f"{KNOWN[table]}.toml").read_text("utf-8")
    return parse_toml(text)


def model_of(faults: Faults, data: Table, name: str, tick: str) -> Model | None:
    """Return the model that the tables ``decoder``, ``training`` and ``device`` describe.

    Parameters
    ----------
    faults
        The reader to which every fault is added; the model is None if there is any.
    data
        The data of the whole file.
    """
    seconds = _seconds(faults, tick)
    described, device = described_of(faults, data), device_of(faults, data.get("device", {}))
    if described is None or device is None or seconds is None or faults.faults:
        return None
    try:
        return decoder_model(*described, device, name=name, tick=seconds)
    except InputError as error:
        for fault in error.faults:
            faults.fault(*fault)
        return None


def described_of(faults: Faults, data: Table) -> tuple[Decoder, Training] | None:
    """Return the shape and the training of the tables ``decoder`` and ``training``; None with any fault."""
    tables = {table: _values(faults, table, data.get(table, {})) for table in ("decoder", "training")}
    if faults.faults:
        return None
    return Decoder(**tables["decoder"]), Training(**tables["training"])


def device_of(faults: Faults, given: Any) -> Device | None:
    """Return the device of the table ``device``; None with any fault."""
    values = _values(faults, "device", given)
    if faults.faults:
        return None
    for name in ("inside", "between"):
        latency = values.pop(f"{name}_latency", Fraction(0))
        values[name] = Link(values.pop(f"{name}_bandwidth", None), latency)
    return Device(**values)


def _values(faults: Faults, table: str, given: Any) -> dict[str, Any]:
    """Return the values of one table; keys that it does not give have the values of what ``like`` names."""
    if not isinstance(given, Mapping):
        return {}
    base = _like(faults, table, given["like"]) if "like" in given and table in KNOWN else {}
    merged = {name: value for name, value in {**base, **given}.items() if name not in ("like", "source")}
    keys = {key.name: key for key in MODEL_KEYS if key.table == table}
    missing = [name for name in _NEEDED[table] if name not in merged]
    if missing and not (faults.faults and "like" in given):
        hint = keys[missing[0]].meaning
        if table in KNOWN:
            hint = f"or name one that comes along: {', '.join(known(table))}"
        faults.fault(f"{table}.{missing[0]}", "missing", hint)
    return {name: value_of(faults, keys[name], value) for name, value in merged.items() if name in keys}


def _like(faults: Faults, table: str, name: Any) -> Table:
    found = known(table).get(name) if isinstance(name, str) else None
    if found is None:
        hint = nearest(str(name), known(table)) or f"known: {', '.join(known(table))}"
        faults.fault(f"{table}.like", f"nothing of this name comes with schedverify: {shown(name)}", hint)
    return found or {}


def value_of(faults: Faults, key: Key, value: Any) -> Any:
    """Return a value that has the shape of its key; otherwise add a fault and return some value of that shape."""
    if key.shape in CHOICES:
        choices = CHOICES[key.shape]
        if (isinstance(value, bool) if key.shape == "flag" else isinstance(value, str)) and value in choices:
            return value
        names = ", ".join(str(choice).lower() for choice in choices)
        faults.fault(key.path, f"expected one of {names}, found {shown(value)}", key.meaning)
        return choices[0]
    if key.shape in ("rate", "share", "seconds"):
        return _quantity(faults, key, value)
    number = size(value) if key.shape == "size" else whole(value)
    low, most = int(key.shape == "count"), LARGEST if key.shape == "size" else _MOST.get(key.name, _NUMBERS)
    if number is not None and low <= number <= most:
        return number
    kind = 'bytes (a whole number, or text such as "80 GB")' if key.shape == "size" else "a whole number"
    faults.fault(key.path, f"expected {kind} from {low} to {most}, found {shown(value)}", key.meaning)
    return low


def _quantity(faults: Faults, key: Key, value: Any) -> Fraction:
    """Return a positive rate (bytes may have a unit), a share of at most 1, or seconds."""
    number = exact(size(value) if isinstance(value, str) and "bandwidth" in key.name else value)
    low, most = (Fraction(1), Fraction(LARGEST)) if key.shape == "rate" else (Fraction(0), Fraction(1))
    if number is not None and low <= number <= most and (number or key.shape == "seconds"):
        return number
    faults.fault(key.path, f"expected a number from {low} to {most}, found {shown(value)}", key.meaning)
    return Fraction(1)


def _seconds(faults: Faults, tick: str) -> Fraction | None:
    match = _TICK.fullmatch(tick.strip())
    length = Fraction(match[1] or 1) / _UNITS[match[2]] if match else Fraction(0)
    if not length:
        message = f"a decoder's durations are computed, in a tick of known length, not {clean(tick)!r}"
        faults.fault("tick", message, 's, ms, us, ns or a multiple such as "0.1 us"')
    return length or None
