"""What the pool's processes do with random models: train one by its plan, and beside it in one process."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist

from schedverify.core.op import Kind
from schedverify.runner import Runner
from support import random_models as models
from support.training_jobs import error


class Trained(NamedTuple):
    """What differs on a rank from one process, what it drew, and the losses of both."""

    errors: dict[str, float]
    """By stage and name, the relative errors of gradients and buffers."""
    drawn: list[Any]
    """The masks that its dropouts drew, flat."""
    shares: list[float | None]
    losses: list[float]


def train(rank: int, plan: Any, drawn: models.Drawn) -> Trained:
    """Train all steps without dropping the gradients in between."""
    torch.manual_seed(0)
    made = models.modules(drawn)
    own = {stage: made[stage] for stage in plan.problem.stages_of[rank]}
    runner = Runner(plan, own, models.loss, timeout=30, shared=models.shared_by(made))
    shares = []
    for step in range(len(drawn.rows)):
        inputs, targets = models.batch(drawn, step)
        result = runner.step(inputs, targets)
        shares.append(None if result.loss is None else float(result.loss))
    masks = {stage: [list(each.drawn.values()) for each in models.dropouts(module)] for stage, module in own.items()}
    everywhere: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(everywhere, masks)
    together = {stage: found for each in everywhere for stage, found in each.items()}
    alone, losses = models.alone(drawn, forwards(plan), together)
    errors: dict[str, float] = {}
    for stage, module in own.items():
        wanted = dict(alone[stage].named_parameters())
        errors |= {f"{stage} {name}": error(w.grad, wanted[name].grad) for name, w in module.named_parameters()}
        buffers = dict(alone[stage].named_buffers())
        errors |= {f"{stage} {name}": error(b, buffers[name]) for name, b in module.named_buffers()}
    flat = [mask.flatten().tolist() for found in masks.values() for each in found for mask in each]
    return Trained(errors, flat, shares, losses)


def forwards(plan: Any) -> dict[int, list[int]]:
    """Return by stage the micro-batches in the order of their forwards."""
    found: dict[int, list[int]] = {stage: [] for stage in range(plan.problem.stages)}
    for rank in range(plan.problem.ranks):
        for step in plan.schedule.steps(rank):
            for op in step.ops:
                if op.kind is Kind.F:
                    found[op.stage].append(op.microbatch)
    return found
