"""Cuts a model's blocks into the modules of a rank's stages: by the plan's partition, else contiguously and evenly."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

from torch import nn

from schedverify.core.errors import Fault, InputError
from schedverify.core.model import even_parts
from schedverify.core.problem import Problem
from schedverify.core.result import Plan

Named = tuple[tuple[str, Any], ...]


def stages_of(plan: Plan, blocks: Named, rank: int) -> dict[int, Any]:
    """Return the module of each stage of a rank; copies of the model begin with equal weights.

    Raises
    ------
    InputError
        If the stages are no chain, there are fewer blocks than stages, or the plan's partition has other layers.
    """
    problem = plan.problem
    _check_chain(problem)
    parts = _by_partition(plan, blocks) if plan.partition is not None else _by_number(blocks, problem.stages)
    made = {}
    for number in problem.stages_of[rank]:
        module = nn.Sequential(*(block for _, block in parts[number % problem.stages]))
        made[number] = copy.deepcopy(module) if problem.replicas > 1 else module
    return made


def _check_chain(problem: Problem) -> None:
    if problem.edges != tuple((stage, stage + 1) for stage in range(problem.stages - 1)):
        hint = "use schedverify.runner.Runner, with a module for each stage"
        raise InputError(Fault("problem.edges", "the plan's stages are no chain, as a list of blocks is", hint))


def _by_number(blocks: Named, stages: int) -> list[Named]:
    return [blocks[part.start : part.stop] for part in even_parts(len(blocks), stages)]


def _by_partition(plan: Plan, blocks: Named) -> list[Named]:
    """Return the blocks of each stage: by their names where the partition has these, else by their order."""
    partition: Sequence[Sequence[str]] = plan.partition or ()
    names = [name for stage in partition for name in stage]
    known = dict(blocks)
    if sorted(names) == sorted(known):
        return [tuple((name, known[name]) for name in stage) for stage in partition]
    if len(names) != len(blocks) or len(partition) != plan.problem.stages:
        found = f"{len(blocks)} blocks, where the plan's partition has {len(names)} layers in {len(partition)} stages"
        raise InputError(Fault("model", found, "a block for each layer, in their order"))
    left = iter(blocks)
    return [tuple(next(left) for _ in stage) for stage in partition]
