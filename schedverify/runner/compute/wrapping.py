"""What wraps a stage for its replicas: told apart, and refused where gradients could not be right."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import Any, Final

from torch.nn.parallel import DataParallel, DistributedDataParallel

from schedverify.core.errors import Fault, InputError
from schedverify.runner.compute.replicas import Replicas, WrappedReplicas
from schedverify.runner.compute.sharded import ShardedReplicas, what_lacks

_OUTERMOST: Final = "wrap the whole stage, and wrap it last: DistributedDataParallel(torch.compile(stage))"
_HOOKS: Final = "forward", "forward_pre", "backward", "backward_pre"
_SWITCHES: Final = "no_sync", "set_requires_gradient_sync"
"""Methods by which a wrapper is told not to reduce, so that what has one does."""
_KNOWN: Final = "use DistributedDataParallel or fully_shard, or give Runner the plain module and data_parallel="


def is_sharded(module: Any) -> bool:
    """Whether ``fully_shard`` was called on a module."""
    fsdp = sys.modules.get("torch.distributed.fsdp")  # where it was, this is loaded
    return fsdp is not None and isinstance(module, fsdp.FSDPModule)


def unfit_wrapping(module: Any) -> tuple[str, str] | None:
    """Return what is wrong with how a stage is wrapped, and what would do; None where nothing is.

    Wrong are wrappers that reduce in ways of their own, and those that lie inside the stage, whose forward runs by
    itself: their reductions cannot be held back.
    """
    for name, each in module.named_modules():
        kind, known = type(each), isinstance(each, DistributedDataParallel) or is_sharded(each)
        if known and name and not (is_sharded(each) and is_sharded(module)):
            return f"its part {name!r} is a {kind.__name__}, the stage itself is not wrapped by it", _OUTERMOST
        if not known and (issubclass(kind, DataParallel) or any(hasattr(kind, switch) for switch in _SWITCHES)):
            at = f"its part {name!r}" if name else "it"
            return f"{at} is a {kind.__name__}, whose reductions nothing is known of", _KNOWN
    return None


def replicas_of(
    modules: Mapping[int, Any], group: Any, sharded: Collection[int], rank: int, timeout: float
) -> dict[int, Replicas]:
    """Return by stage who averages its gradients over its replicas.

    Parameters
    ----------
    modules
        By stage, what the runner was given.
    group
        The data-parallel group that the runner was given; None where it was given none.
    sharded
        The stages that the rank's order has an ``UNSHARD`` for.

    Raises
    ------
    InputError
        If a module is wrapped so that gradients could not be right; names the stage and what would do.
    """
    faults = [
        Fault(f"stages[{number}]", *objection)
        for number, module in sorted(modules.items())
        if (objection := _objection(module, group)) is not None
    ]
    if faults:
        raise InputError(faults)
    made: dict[int, Replicas] = {}
    for number, module in modules.items():
        place = f"rank {rank}, stage {number}"
        if isinstance(module, DistributedDataParallel):
            made[number] = WrappedReplicas(module, place, timeout)
        elif is_sharded(module):
            made[number] = ShardedReplicas(module, place, timeout, by_plan=number in sharded)
        else:
            made[number] = Replicas(module, () if group is None else [group], place, timeout)
    for each in made.values():
        each.others = [other for other in made.values() if other is not each]
    return made


def _objection(module: Any, group: Any) -> tuple[str, str] | None:
    """Return what is wrong with how a stage is wrapped, and what would do; None where nothing is."""
    unfit = unfit_wrapping(module)
    wrapped, sharded = isinstance(module, DistributedDataParallel), is_sharded(module)
    if unfit is not None or not (wrapped or sharded):
        return unfit
    kind = "DistributedDataParallel" if wrapped else "fully_shard"
    if group is not None:
        found = f"it is wrapped by {kind}, and data_parallel is given: its gradients would be averaged twice"
        return found, "give one of the two"
    if sharded and (lacking := what_lacks(module)):
        found = f"fully_shard of this torch has no {lacking}, by which its reductions are held back"
        return found, "use torch 2.13, or data_parallel="
    return _own_ways(module) if wrapped else None


def _own_ways(wrapper: Any) -> tuple[str, str] | None:
    """Return what a ``DistributedDataParallel`` was asked for that a plain mean of its gradients does not do."""
    asked = {
        "a communication hook (register_comm_hook)": getattr(wrapper, "_comm_hooks", None),
        "a communication hook of buffers": getattr(wrapper, "buffer_hook", None),
        "mixed_precision": getattr(wrapper, "mixed_precision", None),
        "delay_all_reduce_named_params": getattr(wrapper, "_delay_all_reduce_params", None),
        "hooks on itself": any(getattr(wrapper, f"_{each}_hooks") for each in _HOOKS),
    }
    found = [name for name, value in asked.items() if value]
    hint = "leave it out; hooks can stand on the module inside, mixed precision in its forward (autocast)"
    return (f"its DistributedDataParallel has {found[0]}, which a step would pass over", hint) if found else None
