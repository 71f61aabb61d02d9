"""What the pool's processes do in tests of wrapped stages: two pipelines of two ranks each, on halves of a batch."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel

from schedverify.runner import Runner
from support.runner_jobs import WIDTH, Block, mean_square, reference

PIPELINES, REPLICAS = ((0, 1), (2, 3)), ((0, 2), (1, 3))
"""Ranks of the world by pipeline, and by place in the pipeline."""


class Layered(nn.Module):
    """Two blocks one after the other, a layer of odd width, a frozen one and one that nobody uses."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        self.first, self.second = Block(stage), Block(stage + 1)
        self.odd = nn.Linear(WIDTH, 5)
        self.frozen = nn.Linear(WIDTH, WIDTH)
        self.frozen.requires_grad_(False)
        self.unused = nn.Linear(3, 3)

    def forward(self, x: Any) -> Any:
        x = self.second(self.first(x))
        return x + torch.sin(self.odd(x)).sum(1, keepdim=True) + self.frozen(x)


class Sometimes(Layered):
    """Uses a weight where the first number of its input is positive: on some replicas, in some micro-batches."""

    def __init__(self, stage: int) -> None:
        super().__init__(stage)
        self.seldom = nn.Parameter(torch.full((WIDTH,), 0.5))

    def forward(self, x: Any) -> Any:
        return super().forward(x * self.seldom if x[0, 0] > 0 else x)


def groups_of(rank: int) -> tuple[int, int, Any, Any]:
    """Return the number of this rank's pipeline, its place there, and the groups of the pipeline and of replicas."""
    pipelines = [dist.new_group(list(ranks)) for ranks in PIPELINES]
    replicas = [dist.new_group(list(ranks)) for ranks in REPLICAS]
    number, place = divmod(rank, 2)
    return number, place, pipelines[number], replicas[place]


def mesh_of(group: Any) -> DeviceMesh:
    return DeviceMesh.from_group(group, "cpu")


def plain(module: Any, group: Any) -> Any:
    return module


def ddp(module: Any, group: Any) -> Any:
    return DistributedDataParallel(module, process_group=group)


def ddp_with_views(module: Any, group: Any) -> Any:
    options = {"gradient_as_bucket_view": True, "find_unused_parameters": True}
    return DistributedDataParallel(module, process_group=group, **options)


def ddp_static(module: Any, group: Any) -> Any:
    return DistributedDataParallel(module, process_group=group, static_graph=True)


def fsdp(module: Any, group: Any) -> Any:
    return fully_shard(module, mesh=mesh_of(group))


def fsdp_that_frees(module: Any, group: Any) -> Any:
    return fully_shard(module, mesh=mesh_of(group), reshard_after_forward=True)


def fsdp_within(module: Any, group: Any) -> Any:
    mesh = mesh_of(group)
    fully_shard(module.first, mesh=mesh)
    fully_shard([module.second, module.odd], mesh=mesh)
    return fully_shard(module, mesh=mesh)


def fsdp_mixed(module: Any, group: Any) -> Any:
    policy = MixedPrecisionPolicy(param_dtype=torch.float32, reduce_dtype=torch.float64)
    mesh = mesh_of(group)
    fully_shard(module.first, mesh=mesh, mp_policy=policy)
    return fully_shard(module, mesh=mesh, mp_policy=dataclasses.replace(policy, output_dtype=torch.float64))


WRAPPERS: dict[str, Callable[[Any, Any], Any]] = {
    each.__name__: each for each in (ddp, ddp_with_views, ddp_static, fsdp, fsdp_that_frees, fsdp_within, fsdp_mixed)
}


def whole_gradients(module: Any) -> dict[str, Any]:
    """Return by the name of a weight its gradient, whole where it is sharded."""
    found = {}
    for name, weight in module.named_parameters():
        gradient = weight.grad
        found[name.removeprefix("module.")] = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
    return found


def models(stages: int, kind: Any) -> list[Any]:
    torch.manual_seed(11)
    return [kind(stage).double() for stage in range(stages)]


def batch_of(rows: int, step: int) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(step)
    return tuple(torch.randn(rows, WIDTH, dtype=torch.float64, generator=generator) for _ in range(2))


def train(rank: int, plan: Any, wrapper: str, kind: Any = Layered, steps: int = 1) -> float:
    """Train steps without zeroing on this pipeline's half of each batch; return the error of this rank's gradients.

    A weight that has no gradient in one process has to have none here.
    """
    number, place, pipeline, replicas = groups_of(rank)
    problem = plan.problem
    modules = models(problem.stages, kind)
    given = None
    if wrapper == "data_parallel":
        own = {stage: copy.deepcopy(modules[stage]) for stage in problem.stages_of[place]}
        given = replicas
    else:
        own = {s: WRAPPERS[wrapper](copy.deepcopy(modules[s]), replicas) for s in problem.stages_of[place]}
    runner = Runner(plan, own, mean_square, group=pipeline, data_parallel=given, timeout=30)
    for step in range(steps):
        batch, target = batch_of(8 * problem.microbatches, step)
        split_reference(problem, modules, batch, target)
        runner.step(*(each.tensor_split(2)[number] for each in (batch, target)))
    errors = [0.0]
    for stage, module in own.items():
        found = whole_gradients(module)
        for name, weight in modules[stage].named_parameters():
            errors.append(difference(found[name], weight.grad))
        rest = [weight for weight in module.parameters() if wrapper.startswith("fsdp") != isinstance(weight, DTensor)]
        errors += [float("nan")] * len(rest)
    return max(errors)


def split_reference(problem: Any, modules: list[Any], batch: Any, target: Any) -> None:
    """Add the gradients that one process has, which runs the same micro-batches one after the other."""
    parts = 2 * problem.microbatches
    for inputs, targets in zip(batch.tensor_split(parts), target.tensor_split(parts), strict=True):
        (reference(problem, modules, inputs, targets)[0] / parts).backward()


def difference(found: Any, expected: Any) -> float:
    if found is None or expected is None:
        return 0.0 if found is expected else float("inf")
    return float((found - expected).norm() / expected.norm().clamp_min(1e-30))
