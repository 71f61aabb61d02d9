"""The modules of a rank's stages, as they were given."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from schedverify.core.errors import Fault, InputError
from schedverify.core.op import Kind
from schedverify.core.result import Plan
from schedverify.runner.program import RankProgram

Stages = Mapping[int, Any] | Sequence[Any]
"""The modules of a rank's stages: by stage, or in their order."""


def modules_of(stages: Stages | Callable[[Plan], Stages], plan: Plan, program: RankProgram) -> dict[int, Any]:
    """Return the module of each stage of this rank.

    Raises
    ------
    InputError
        If they are not those of its stages, or no modules.
    """
    given = stages(plan) if callable(stages) and not isinstance(stages, torch.nn.Module) else stages
    if not isinstance(given, Mapping | Sequence):
        hint = "by stage, or a list in the order of the rank's stages"
        raise InputError(Fault("stages", f"expected the modules of this rank, found {type(given).__name__}", hint))
    numbers = program.problem.stages_of[program.rank]
    made = dict(given) if isinstance(given, Mapping) else dict(zip(numbers, given, strict=False))
    if len(given) != len(numbers) or set(made) != set(numbers):
        found = sorted(made) if isinstance(given, Mapping) else f"{len(given)} modules"
        raise InputError(Fault("stages", f"rank {program.rank} holds the stages {list(numbers)}, found {found}"))
    for number, module in made.items():
        if not isinstance(module, torch.nn.Module):
            raise InputError(Fault(f"stages[{number}]", f"expected a torch.nn.Module, found {type(module).__name__}"))
    sharded = {op.stage for action in program.actions for op in action.ops if op.kind in (Kind.UNSHARD, Kind.RESHARD)}
    faults = [
        Fault(f"stages[{number}]", "the plan unshards and reshards it, the module has no unshard and reshard")
        for number in sorted(sharded)
        if not (hasattr(made[number], "unshard") and hasattr(made[number], "reshard"))
    ]
    if faults:
        raise InputError(faults)
    return made


def device_of(modules: Mapping[int, Any]) -> Any:
    """Return the device of the first weight; the host where there is none."""
    weights = (weight for module in modules.values() for weight in module.parameters())
    return next((weight.device for weight in weights), torch.device("cpu"))
