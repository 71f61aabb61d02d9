"""What the pool's processes do in tests of wrapped stages: two pipelines of two ranks each, on halves of a batch."""

from __future__ import annotations

import copy
import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed._composable.replicate_with_fsdp import replicate
from torch.distributed.algorithms.ddp_comm_hooks.debugging_hooks import noop_hook
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import FullyShardedDataParallel, MixedPrecisionPolicy, fully_shard
from torch.distributed.pipelining import PipelineStage
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DataParallel, DistributedDataParallel

from schedverify.core.errors import InputError
from schedverify.runner import RefusedError, RunError, Runner
from schedverify.runner.compute.gradients import begin_average
from schedverify.torch_bridge import load_verified
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


@functools.cache
def groups_of(rank: int) -> tuple[int, int, Any, Any]:
    """Return the number of this rank's pipeline, its place there, and the groups of the pipeline and of replicas.

    A process has them once: each group has threads of its own, which would slow down what comes later.
    """
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


def fsdp_that_keeps(module: Any, group: Any) -> Any:
    mesh = mesh_of(group)
    fully_shard(module.first, mesh=mesh, reshard_after_forward=False)
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


def train(rank: int, plan: Any, wrapper: str, kind: Any = Layered, steps: int = 1, tied: str | None = None) -> float:
    """Train steps without zeroing on this pipeline's half of each batch; return the error of this rank's gradients.

    A weight that has no gradient in one process has to have none here. With ``tied`` the first and the last stage share
    the weight of that name, or all with an empty one.
    """
    number, place, pipeline, replicas = groups_of(rank)
    problem = plan.problem
    modules, options = models(problem.stages, kind), {}
    if tied:
        part, _, name = tied.rpartition(".")
        setattr(modules[-1].get_submodule(part), name, modules[0].get_parameter(tied))
        options["shared"] = {tied: [0, problem.stages - 1]}
    elif tied is not None:
        modules[-1] = modules[0]
    own = {stage: copy.deepcopy(modules[stage % problem.stages]) for stage in problem.stages_of[place]}
    if wrapper == "data_parallel":
        options["data_parallel"] = replicas
    else:
        own = {stage: WRAPPERS[wrapper](module, replicas) for stage, module in own.items()}
    runner = Runner(plan, own, mean_square, group=pipeline, timeout=30, **options)
    for step in range(steps):
        batch, target = batch_of(8 * problem.microbatches, step)
        split_reference(problem, modules, batch, target)
        runner.step(*(each.tensor_split(2)[number] for each in (batch, target)))
    errors = [0.0]
    for stage, module in own.items():
        found = whole_gradients(module)
        for name, weight in modules[stage % problem.stages].named_parameters():
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


def two_within(module: Any, group: Any) -> Any:
    module.first = ddp(module.first, group)
    return module


def sharded_within(module: Any, group: Any) -> Any:
    fully_shard(module.first, mesh=mesh_of(group))
    return module


def wrapped_twice(module: Any, group: Any) -> Any:
    return ddp(ddp(module, group), group)


def compiled(module: Any, group: Any) -> Any:
    return torch.compile(ddp(module, group))


def fsdp_of_old(module: Any, group: Any) -> Any:
    return FullyShardedDataParallel(module, process_group=group, device_id=torch.device("cpu"), use_orig_params=True)


def data_parallel(module: Any, group: Any) -> Any:
    return DataParallel(module)


def unknown(module: Any, group: Any) -> Any:
    return Engine(module)


class Engine(nn.Module):
    """Stands for a wrapper that nothing is known of, but that it can be told not to reduce."""

    def __init__(self, module: Any) -> None:
        super().__init__()
        self.module = module

    def no_sync(self) -> Any:
        raise AssertionError("it is never asked")


def with_hook(module: Any, group: Any) -> Any:
    wrapper = ddp(module, group)
    wrapper.register_comm_hook(None, noop_hook)
    return wrapper


def with_forward_hook(module: Any, group: Any) -> Any:
    wrapper = ddp(module, group)
    wrapper.register_forward_hook(lambda _, __, output: output * 2)
    return wrapper


def of_another_torch(module: Any, group: Any) -> Any:
    sharded = fsdp(module, group)
    del sharded._get_fsdp_state()._fsdp_param_groups[0].post_forward_mesh_info
    return sharded


def refusal(rank: int, plan: Any, wrap: Any, both: bool) -> str:
    """Have the second rank of each pipeline wrap its stage, and return why this rank refuses."""
    _, place, pipeline, replicas = groups_of(rank)
    module = Layered(place).double()
    own = [wrap(module, replicas) if place else module]
    try:
        Runner(plan, own, mean_square, group=pipeline, data_parallel=replicas if both else None, timeout=30)
    except (RefusedError, InputError) as error:
        return str(error)
    return "not refused"


class Counting(nn.Module):
    """Counts its forwards in a buffer, beside a batch normalization."""

    def __init__(self, stage: int) -> None:
        super().__init__()
        self.block, self.norm = Block(stage), nn.BatchNorm1d(WIDTH)
        self.register_buffer("flag", torch.tensor(stage > 99))

    def forward(self, x: Any) -> Any:
        return self.norm(self.block(x))


def buffers(rank: int, plan: Any, ours: bool) -> list[Any]:
    """Return the buffers of this rank's stage after two steps on its half, by our runner or by DDP in one process each.

    In the latter a pipeline is one module that accumulates gradients.
    """
    number, place, pipeline, replicas = groups_of(rank)
    modules = models(2, Counting)
    batches = [[each.tensor_split(2)[number] for each in batch_of(8 * plan.problem.microbatches, s)] for s in range(2)]
    if ours:
        own = ddp(modules[place], replicas)
        runner = Runner(plan, [own], mean_square, group=pipeline, timeout=30)
        for batch, target in batches:
            runner.step(batch, target)
        return [buffer.tolist() for buffer in modules[place].buffers()]
    whole = ddp(nn.Sequential(*modules), replicas)
    for pair in batches:
        parts = list(zip(*(each.tensor_split(plan.problem.microbatches) for each in pair), strict=True))
        with whole.no_sync():
            for inputs, target in parts[:-1]:
                mean_square(whole(inputs), target).backward()
        mean_square(whole(parts[-1][0]), parts[-1][1]).backward()
    return [buffer.tolist() for buffer in modules[place].buffers()]


def gathered(rank: int, plan: Any) -> list[tuple[str, int]]:
    """Return by operation of this rank how many of the stage's weights are gathered when it is done."""
    number, place, pipeline, replicas = groups_of(rank)
    module = fsdp_within(Layered(place).double(), replicas)
    runner = Runner(plan, [module], mean_square, group=pipeline, timeout=30)
    found = []

    def around(action: Any, perform: Any) -> None:
        perform(action)
        found.append((action.text, sum(not isinstance(weight, DTensor) for weight in module.parameters())))

    runner.execution.intercept(around)
    batch, target = batch_of(8 * plan.problem.microbatches, 0)
    runner.step(*(each.tensor_split(2)[number] for each in (batch, target)))
    return [*found, ("after", sum(not isinstance(weight, DTensor) for weight in module.parameters()))]


def outside(rank: int, plan: Any, wrapper: str) -> float:
    """Use a wrapped stage outside of the runner behind a step of it, and return the error of its gradients there."""
    number, place, pipeline, replicas = groups_of(rank)
    module = WRAPPERS[wrapper](models(2, Layered)[place], replicas)
    alone = models(2, Layered)[place]
    batch, target = batch_of(8 * plan.problem.microbatches, 0)
    halves = [each.tensor_split(2) for each in (batch, target)]
    Runner(plan, [module], mean_square, group=pipeline, timeout=30).step(*(half[number] for half in halves))
    module.zero_grad()
    mean_square(module(halves[0][number]), halves[1][number]).backward()
    sum(mean_square(alone(x), y) / 2 for x, y in zip(*halves, strict=True)).backward()
    expected = dict(alone.named_parameters())
    return max(difference(found, expected[name].grad) for name, found in whole_gradients(module).items())


def fails(rank: int, plan: Any, wrapper: str) -> str:
    """Have one rank of the first pipeline fail in its forward; return what was told on this rank."""
    number, place, pipeline, replicas = groups_of(rank)
    module = models(2, Layered)[place]
    if rank == 0:
        module.first.register_forward_hook(lambda *_: 1 / 0)
    own = WRAPPERS[wrapper](module, replicas)
    runner = Runner(plan, [own], mean_square, group=pipeline, timeout=60)
    batch, target = batch_of(8 * plan.problem.microbatches, 0)
    try:
        runner.step(*(each.tensor_split(2)[number] for each in (batch, target)))
    except RunError as error:
        return str(error)
    return "no error"


def half_sharded(rank: int, plan: Any) -> str:
    """Share a weight between a plain stage and a sharded one, and return why it is refused."""
    _, place, pipeline, replicas = groups_of(rank)
    module = Layered(place).double()
    own = [fsdp(module, replicas) if place else module]
    try:
        Runner(plan, own, mean_square, group=pipeline, shared={"first.up.weight": [0, 1]}, timeout=30)
    except RefusedError as error:
        return str(error)
    return "not refused"


class Used(Layered):
    """Uses each of its weights, none of which is frozen."""

    def __init__(self, stage: int) -> None:
        super().__init__(stage)
        del self.unused, self.frozen

    def forward(self, x: Any) -> Any:
        x = self.second(self.first(x))
        return x + torch.sin(self.odd(x)).sum(1, keepdim=True)


def in_torch(rank: int, plan: Any, wrap: Any) -> Any:
    """Train a step in PyTorch's own runtime; return the error of this rank's gradients, or why it was refused."""
    number, place, pipeline, replicas = groups_of(rank)
    problem = plan.problem
    modules = models(problem.stages, Used)
    own = {stage: wrap(copy.deepcopy(modules[stage]), replicas) for stage in problem.stages_of[place]}
    cpu = torch.device("cpu")
    stages = [PipelineStage(module, stage, problem.stages, cpu, group=pipeline) for stage, module in own.items()]
    try:
        loaded = load_verified(plan, stages, mean_square, timeout=60)
    except RefusedError as error:
        return str(error)
    batch, target = batch_of(8 * problem.microbatches, 0)
    split_reference(problem, modules, batch, target)
    batch, target = (each.tensor_split(2)[number] for each in (batch, target))
    given = [batch] if any(stage.is_first for stage in stages) else []
    loaded.step(*given, target=target if any(stage.is_last for stage in stages) else None)
    found = {stage: whole_gradients(module) for stage, module in own.items()}
    errors = [
        difference(found[stage][name], weight.grad)
        for stage in own
        for name, weight in modules[stage].named_parameters()
    ]
    return max(errors)


def in_two_axes(rank: int, plan: Any, replicated: bool) -> float:
    """Train a step as one of four replicas of one rank, sharded over two and replicated over two, or over four."""
    pipeline = [dist.new_group([each]) for each in range(4)][rank]
    alone, module = (models(1, Sometimes)[0] for _ in range(2))
    if replicated:
        replicate(module, mesh=init_device_mesh("cpu", (4,)))
    else:
        mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("replicate", "shard"))
        fully_shard(module.first, mesh=mesh)
        fully_shard(module, mesh=mesh)
    runner = Runner(plan, [module], mean_square, group=pipeline, timeout=30)
    parts = 4 * plan.problem.microbatches
    batch, target = batch_of(4 * parts, 0)
    for inputs, targets in zip(batch.tensor_split(parts), target.tensor_split(parts), strict=True):
        (mean_square(alone(inputs), targets) / parts).backward()
    runner.step(*(each.tensor_split(4)[rank] for each in (batch, target)))
    expected = dict(alone.named_parameters())
    return max(difference(found, expected[name].grad) for name, found in whole_gradients(module).items())


def counted(output: Any, target: Any) -> tuple[Any, Any]:
    """Return a sum over the rows whose first target is positive, and how many they are."""
    counts = target[:, 0] > 0
    return ((output - target) ** 2)[counts].sum(), counts.sum()


def of_counted_rows(rank: int, plan: Any, wrapper: str) -> float:
    """Train two steps with a loss that counts other rows on each replica; return the error of this rank's gradients."""
    number, place, pipeline, replicas = groups_of(rank)
    modules = models(2, Layered)
    own = WRAPPERS[wrapper](copy.deepcopy(modules[place]), replicas)
    runner = Runner(plan, [own], counted, group=pipeline, timeout=30)
    for step in range(2):
        batch, target = batch_of(8 * plan.problem.microbatches, step)
        total, count = counted(modules[1](modules[0](batch)), target)
        (total / count).backward()
        runner.step(*(each.tensor_split(2)[number] for each in (batch, target)))
    expected = dict(modules[place].named_parameters())
    return max(difference(found, expected[name].grad) for name, found in whole_gradients(own).items())


def mean_of_sparse(rank: int) -> list[Any]:
    """Average a sparse gradient that half of the ranks have, a dense one of one rank, and one that nobody has."""
    table, head, unused = nn.Embedding(5, 2, sparse=True), nn.Linear(2, 1, bias=False), nn.Linear(2, 2)
    if rank < 2:
        table(torch.tensor([rank, 3])).sum().backward()
    if rank == 1:
        head(torch.ones(2)).sum().backward()
    weights = [table.weight, head.weight, *unused.parameters()]
    begin_average(weights, dist.group.WORLD, "here", 30)()
    first, second, *others = (weight.grad for weight in weights)
    return [first.is_sparse, first.to_dense().tolist(), second.tolist(), others]
