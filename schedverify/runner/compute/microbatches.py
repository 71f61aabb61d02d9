"""Cuts what a step is fed into micro-batches.

Tensors are cut along their first dimension; where its rows do not divide evenly, the first micro-batches get one row
more. What has no rows (numbers, texts, scalars) goes to each micro-batch as it is.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from schedverify.core.errors import Fault, InputError
from schedverify.runner.compute.parcels import Parcel, parcel_of
from schedverify.runner.compute.structures import TENSOR


def microbatches_of(value: Any, count: int, place: str) -> list[Parcel]:
    """Return ``count`` micro-batches of a batch.

    Parameters
    ----------
    value
        A tensor, or a tuple, dict or dataclass with tensors of shape ``(rows, ...)``, whose rows are divided as evenly
        as they can be, the larger parts first; or a list of the micro-batches themselves.
    place
        The name of the value, for messages of errors.

    Raises
    ------
    InputError
        If a list has another length, no tensor has rows, tensors differ in their rows, or there are fewer rows than
        micro-batches.
    """
    if isinstance(value, list):
        return _given(value, count, place)
    if isinstance(value, torch.Tensor) and value.dim() and value.shape[0] >= count:  # what is usual, at less cost
        return [Parcel.of((part,), TENSOR, (False,)) for part in value.tensor_split(count)]
    whole = _parcel(value, place)
    if not any(tensor.dim() for tensor in whole):
        raise InputError(Fault(place, "no tensor with rows", "shape (rows, ...), or a list of the micro-batches"))
    return _cut(whole, count, place)


def keywords_of(value: Any, count: int, place: str, rows: int | None) -> list[Parcel]:
    """Return keyword arguments for each of ``count`` micro-batches.

    Parameters
    ----------
    value
        Values by the names of arguments, cut as a batch is where there are tensors with rows; or a list of such, one
        for each micro-batch.
    rows
        The rows that tensors must have; None where they are not known.

    Raises
    ------
    InputError
        As :func:`microbatches_of`, or if arguments have no names.
    """
    for each in value if isinstance(value, list) else [value]:
        if not (isinstance(each, Mapping) and all(isinstance(name, str) for name in each)):
            found = f"expected values by the names of arguments, found {type(each).__name__}"
            raise InputError(Fault(place, found, "such as {'mask': mask}, or a list with one for each micro-batch"))
    if isinstance(value, list):
        return _given(value, count, place)
    whole = _parcel(value, place)
    found_rows = sorted({len(tensor) for tensor in whole if tensor.dim()})
    if rows is not None and set(found_rows) - {rows}:
        hint = "the rows of the batch; what every micro-batch reads whole goes into a list, one entry for each"
        raise InputError(Fault(place, f"tensors of {found_rows} rows, where the batch has {rows}", hint))
    return _cut(whole, count, place)


def rows_in(value: Any) -> int | None:
    """Return the rows of a whole batch; None of a list of micro-batches, and where they are not one number."""
    if isinstance(value, list):
        return None
    rows = {len(tensor) for tensor in _parcel(value, "batch") if tensor.dim()}
    return rows.pop() if len(rows) == 1 else None


def _given(members: list[Any], count: int, place: str) -> list[Parcel]:
    if len(members) != count:
        found = f"{len(members)} micro-batches, where the plan has {count}"
        raise InputError(Fault(place, found, "one entry for each"))
    return [_parcel(member, f"{place}[{m}]") for m, member in enumerate(members)]


def _parcel(value: Any, place: str) -> Parcel:
    """Return the tensors of what a step is fed; no gradients are computed for them."""
    plain = dict(value) if isinstance(value, Mapping) and not isinstance(value, dict) else value
    found = parcel_of(plain, place, opaque=True)
    return found.holding(found, [False] * len(found))


def _cut(whole: Parcel, count: int, place: str) -> list[Parcel]:
    rows = sorted({tensor.shape[0] for tensor in whole if tensor.dim()})
    if len(rows) > 1:
        raise InputError(Fault(place, f"tensors of {rows} rows", "the same rows in each, or a list of micro-batches"))
    if rows and rows[0] < count:
        raise InputError(Fault(place, f"{rows[0]} rows for {count} micro-batches", "at least one row for each"))
    parts = [tensor.tensor_split(count) if tensor.dim() else (tensor,) * count for tensor in whole]
    structure, needs = whole.structure, whole.needs
    return [Parcel.of(part, structure, needs) for part in zip(*parts, strict=True)] if parts else [whole] * count
