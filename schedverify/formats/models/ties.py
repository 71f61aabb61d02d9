"""The key ``tied`` of a model file: what layers share, weights with their bytes, or groups of layers alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from schedverify.core.model import Model, TiedWeight
from schedverify.core.problem.reader import TableReader
from schedverify.formats.models.model_keys import model_names

Group = tuple[int, ...]


def ties_in(
    reader: TableReader, data: Any, group_at: Callable[[str, Any], Group]
) -> tuple[tuple[Group, ...], tuple[TiedWeight, ...]]:
    """Return the groups of layers that share weights, each once, and the weights that are given with their bytes.

    Parameters
    ----------
    reader
        That of the file, to which every fault is added.
    group_at
        Takes a key and the names there, and returns the positions of these layers.
    """
    groups, weights = [], []
    for i, tie in enumerate(reader.items("tied", data)):
        if isinstance(tie, Mapping):
            weights.append(_tied_weight(reader, f"tied[{i}]", tie, group_at))
            groups.append(weights[-1].layers)
        else:
            groups.append(group_at(f"tied[{i}]", tie))
    return tuple(dict.fromkeys(groups)), tuple(weights)


def _tied_weight(
    reader: TableReader, place: str, table: Mapping[str, Any], group_at: Callable[[str, Any], Group]
) -> TiedWeight:
    missing = "the layers that have the weight"
    reader.check_keys(place, table, model_names("tied"), needed=("layers",), missing=missing)
    layers = group_at(f"{place}.layers", table.get("layers", ()))
    given = reader.items(f"{place}.weights", table.get("weights", ()))
    names = [reader.plain_text(f"{place}.weights[{j}]", name) for j, name in enumerate(given)]
    if len(set(layers)) < len(layers):
        reader.fault(f"{place}.layers", "a layer stands twice", "name each layer once")
    if names and len(names) != len(layers):
        reader.fault(f"{place}.weights", f"expected a name for each of {len(layers)} layers, found {len(names)}")
    sizes = {name: reader.number(f"{place}.{name}", table[name], 0) for name in _SIZES if name in table}
    pairs = sorted(zip(layers, names or [""] * len(layers), strict=False))
    return TiedWeight(tuple(layer for layer, _ in pairs), tuple(name for _, name in pairs if names), **sizes)


def ties_data(model: Model, names: list[str]) -> list[Any]:
    """Return the data of a model's ties: groups whose weights are not known, then the weights.

    Parameters
    ----------
    names
        Those of the layers.
    """
    known = {weight.layers for weight in model.tied_weights}
    groups: list[Any] = [[names[i] for i in group] for group in model.tied if group not in known]
    for weight in model.tied_weights:
        table = {"layers": [names[i] for i in weight.layers]} | (
            {"weights": list(weight.names)} if weight.names else {}
        )
        groups.append(table | {name: size for name in _SIZES if (size := getattr(weight, name))})
    return groups


_SIZES = ("parameters", "state")
