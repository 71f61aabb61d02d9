"""What one rank runs: its row of the plan's lowered order with every peer named, and the modules of its stages."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import torch

from schedverify.core.errors import Fault, InputError, ScheduleError
from schedverify.core.messages import named
from schedverify.core.op import Kind, Op
from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.core.schedule import Schedule, is_communication
from schedverify.runner.p2p.messages import Name, name_of


class Action(NamedTuple):
    """One step of a rank's order: operations that are launched as one."""

    position: int
    text: str
    """The step as it is written in the plan."""
    ops: tuple[Op, ...]
    """Each send, its wait, and each receive with its peer stage."""
    is_transfer: bool
    """Whether they are sends and receives."""
    forwards: int
    """How many of them are F."""


class RankProgram(NamedTuple):
    """What a rank runs in each step of training."""

    problem: Problem
    rank: int
    actions: tuple[Action, ...]
    split: frozenset[tuple[int, int]]
    """The pairs of stage and micro-batch whose backward is in two parts, I and W."""
    reduces: bool
    """Whether the rank's order has a ``REDUCE_GRAD``."""
    awaited_sends: frozenset[Name]
    """The messages for whose sends the rank's order has a wait."""
    awaited_reductions: frozenset[int]
    """The stages for whose ``REDUCE_GRAD`` the rank's order has a wait."""
    sharded: frozenset[int]
    """The stages for which the rank's order has an ``UNSHARD`` or ``RESHARD``."""


def program_of(plan: Plan, rank: int) -> RankProgram:
    """Return the program of a rank from a plan that has a schedule with communication.

    Raises
    ------
    ScheduleError
        If it has none, or a send, its wait or a receive has no peer on another rank.
    """
    if plan.lowered is None:
        raise ScheduleError("the plan holds no schedule with communication")
    problem, row = plan.problem, plan.lowered.schedule.rows[rank]
    communication = is_communication(row)
    full = row.copy()
    full[communication] = named(row[communication], problem)
    steps = zip(plan.lowered.schedule.steps(rank), Schedule([full]).steps(0), strict=True)
    actions = tuple(_action(position, str(own), step.ops) for position, (own, step) in enumerate(steps))
    for action in actions:
        for op in action.ops:
            if op.kind.is_communication and op.peer is None:
                raise ScheduleError(f"rank {rank}, position {action.position} ({op}): no peer on another rank")
    ops = [op for action in actions for op in action.ops]
    split = frozenset((op.stage, op.microbatch) for op in ops if op.kind is Kind.I and op.microbatch is not None)
    reduces = any(op.kind is Kind.REDUCE_GRAD for op in ops)
    awaited_sends = frozenset(name_of(op) for op in ops if op.kind.is_send_wait)
    awaited_reductions = frozenset(op.stage for op in ops if op.kind is Kind.WAIT_REDUCE_GRAD)
    sharded = frozenset(op.stage for op in ops if op.kind in (Kind.UNSHARD, Kind.RESHARD))
    return RankProgram(problem, rank, actions, split, reduces, awaited_sends, awaited_reductions, sharded)


def _action(position: int, text: str, ops: tuple[Op, ...]) -> Action:
    return Action(position, text, ops, ops[0].kind.is_transfer, sum(op.kind is Kind.F for op in ops))


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
    faults = [
        Fault(f"stages[{number}]", "the plan unshards and reshards it, the module has no unshard and reshard")
        for number in sorted(program.sharded)
        if not (hasattr(made[number], "unshard") and hasattr(made[number], "reshard"))
    ]
    if faults:
        raise InputError(faults)
    return made


def device_of(modules: Mapping[int, Any]) -> Any:
    """Return the device of the first weight; the host where there is none."""
    weights = (weight for module in modules.values() for weight in module.parameters())
    return next((weight.device for weight in weights), torch.device("cpu"))
