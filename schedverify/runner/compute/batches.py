"""Cuts a batch into micro-batches along the first dimension; where it does not go up, the first have one row more."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from schedverify.core.errors import Fault, InputError

Tensors = tuple[Any, ...]
"""Tensors that go together: what a stage reads or makes for one micro-batch."""


def as_tensors(value: Any, place: str) -> Tensors:
    """Return a tensor, or a tuple or list of tensors, as a tuple.

    Raises
    ------
    InputError
        If it is something else.
    """
    members = value if isinstance(value, tuple | list) else (value,)
    for i, member in enumerate(members):
        if not isinstance(member, torch.Tensor):
            raise InputError(Fault(f"{place}[{i}]", f"expected a tensor, found {type(member).__name__}", "or a tuple"))
    return tuple(members)


def microbatches_of(value: Any, count: int, place: str) -> list[Tensors]:
    """Return ``count`` micro-batches of a batch.

    Parameters
    ----------
    value
        A tensor or a tuple of tensors, whose rows are divided as evenly as they can be, more of them first; or a list
        with the micro-batches themselves.

    Raises
    ------
    InputError
        If a list has another length, tensors differ in their rows, or there are fewer rows than micro-batches.
    """
    if isinstance(value, list):
        if len(value) != count:
            raise InputError(
                Fault(place, f"{len(value)} micro-batches, where the plan has {count}", "one entry for each")
            )
        return [as_tensors(member, f"{place}[{m}]") for m, member in enumerate(value)]
    tensors = as_tensors(value, place)
    rows = {len(tensor) if tensor.dim() else 0 for tensor in tensors}
    if len(rows) != 1:
        raise InputError(Fault(place, f"tensors of {sorted(rows)} rows", "the same rows in each"))
    if min(rows) < count:
        hint = "at least one row for each"
        raise InputError(Fault(place, f"{min(rows)} rows for {count} micro-batches", hint))
    return list(zip(*(tensor.tensor_split(count) for tensor in tensors), strict=True))


def rows_of(tensors: Tensors) -> int:
    """Return the rows of a micro-batch: the length of its first tensor, 1 of a scalar."""
    return len(tensors[0]) if tensors and tensors[0].dim() else 1


def by_stage(value: Any, stages: Sequence[int]) -> dict[int, Any]:
    """Return what is given for each of some stages (of one copy): one value for all of them, or a mapping by stage."""
    if isinstance(value, Mapping):
        return {stage: value[stage] for stage in stages if stage in value}
    return {} if value is None else dict.fromkeys(stages, value)
