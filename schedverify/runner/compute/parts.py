"""Weights and gradients of which a rank has a part: those of sharded modules (DTensors), and all others as they are."""

from __future__ import annotations

import sys
from typing import Any

import torch


def is_part(tensor: Any) -> bool:
    """Whether a tensor is a rank's part of one that is sharded."""
    distributed = sys.modules.get("torch.distributed.tensor")  # where there is such a tensor, this is loaded
    return distributed is not None and isinstance(tensor, distributed.DTensor)


def part_of(tensor: Any) -> Any:
    """Return what this rank has of a tensor: all of it, where it is not sharded."""
    return tensor.to_local() if is_part(tensor) else tensor


def as_part_of(weight: Any, part: Any) -> Any:
    """Return a rank's part of a gradient as the gradient of its weight."""
    if not is_part(weight):
        return part
    whole = {"run_check": False, "shape": weight.shape, "stride": weight.stride()}
    with torch.no_grad():
        return type(weight.data).from_local(part, weight.device_mesh, weight.placements, **whole)


def place_of(weight: Any) -> list[str]:
    """Return which part of a sharded weight this rank has, in words; nothing of one that is not sharded."""
    if not is_part(weight):
        return []
    mesh = weight.device_mesh
    axes = zip(weight.placements, mesh.get_coordinate(), mesh.shape, strict=True)
    parts = [f"part {place + 1} of {size} ({how})" for how, place, size in axes if how.is_shard()]
    return [f"in {', '.join(parts)}"] if parts else []
