"""Stages wrapped for their replicas, and the orders in which PyTorch's runtime makes their gradients wrong.

It holds reductions back in DistributedDataParallel and in what fully_shard was called on, until the last backward of a
stage; but what I and W do, not every one of them sees.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from schedverify.core.op import Kind
from schedverify.core.schedule import Schedule

_RUNNER: Final = "schedverify.runner.Runner trains them with this plan"


def objection_to_wrapped(modules: Mapping[int, Any], schedule: Schedule, rank: int) -> str:
    """Return which stages of a rank are wrapped so that PyTorch's runtime would train them wrongly, and what would do.

    Parameters
    ----------
    modules
        By stage, what its ``PipelineStage`` was given.
    schedule
        With communication, as it is loaded.
    """
    from torch.nn.parallel import DistributedDataParallel

    from schedverify.runner.compute.sharded import frees_behind_forward
    from schedverify.runner.compute.wrapping import is_sharded, unfit_wrapping

    for stage, module in sorted(modules.items()):
        if (unfit := unfit_wrapping(module)) is not None:
            return f"stage {stage}: {unfit[0]} ({unfit[1]})"
    kinds: dict[int, set[Kind]] = {}
    for step in schedule.steps(rank):
        for op in step.ops:
            kinds.setdefault(op.stage, set()).add(op.kind)
    replicated = {stage for stage, module in modules.items() if isinstance(module, DistributedDataParallel)}
    sharded = {stage for stage, module in modules.items() if is_sharded(module)}
    split = {stage for stage in modules if Kind.W in kinds.get(stage, ())}
    freed = {stage for stage in sharded & split if frees_behind_forward(modules[stage])}
    gathered = {stage for stage in sharded if Kind.UNSHARD in kinds.get(stage, ())}
    cases = [
        (replicated & split, "wrapped in DistributedDataParallel, and the plan splits their backward in I and W, which "
         f"reduces gradients before they are whole; take a plan without W, or fully_shard; {_RUNNER}"),
        ({stage for stage in replicated if modules[stage].static_graph},
         f"wrapped in DistributedDataParallel with static_graph, which reduces no sums; leave it out; {_RUNNER}"),
        (sharded - gathered,
         "sharded (FSDP), the plan has no UNSHARD for them; schedverify lower --unshard puts it in"),
        (freed, "sharded (FSDP) so that weights are freed behind a forward, and the plan splits their backward in I "
         "and W, which loses their gradients; call fully_shard with reshard_after_forward=False on all parts; "
         f"{_RUNNER}"),
    ]  # fmt: skip
    found = [f"the stages {sorted(stages)} given are {text}" for stages, text in cases if stages]
    return found[0] if found else ""
