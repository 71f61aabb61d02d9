"""What the pool's processes do in tests of shared weights: models that share weights, beside one process."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from schedverify.runner import RefusedError, Runner
from schedverify.runner.compute.gradient_sums import sum_shared
from schedverify.runner.compute.shared_weights import own_shared, told_weights

WORDS, WIDTH = 11, 6


class Head(nn.Module):
    """Gives a number for each word of a table of words, with a bias of its own."""

    def __init__(self, weight: Any, *, bias: bool) -> None:
        super().__init__()
        self.weight = weight
        self.bias = nn.Parameter(torch.full((len(weight),), 0.25, dtype=weight.dtype)) if bias else None

    def forward(self, x: Any) -> Any:
        return functional.linear(x, self.weight, self.bias)


class Middle(nn.Module):
    """A layer that reads a table beside its own weights."""

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.own, self.table = nn.Linear(WIDTH, WIDTH).double(), table

    def forward(self, x: Any) -> Any:
        return torch.tanh(self.own(x)) + functional.softmax(x @ self.table.t(), -1) @ self.table


class Ends(nn.Module):
    """An embedding, or a head, with a scale that both have beside the table."""

    def __init__(self, table: Any, scale: Any, *, first: bool) -> None:
        super().__init__()
        self.table, self.scale, self.first = table, scale, first

    def forward(self, x: Any) -> Any:
        return functional.embedding(x, self.table) * self.scale if self.first else (x * self.scale) @ self.table.t()


def table_of(sparse: bool = False) -> nn.Embedding:
    return nn.Embedding(WORDS, WIDTH, sparse=sparse).double()


def models() -> dict[str, tuple[list[Any], Any]]:
    """Return by what is shared the stages of a model on three ranks, and what the runner is told of it."""
    torch.manual_seed(3)
    made: dict[str, tuple[list[Any], Any]] = {}
    e = table_of()
    made["a table and a head with a bias"] = (
        [e, Middle(table_of().weight), Head(e.weight, bias=True)],
        {"weight": [0, 2]},
    )
    e = table_of()
    blocks = [nn.Sequential(e), Middle(e.weight), nn.Sequential(nn.Tanh(), Head(e.weight, bias=True))]
    made["on three ranks"] = blocks, {"table": {0: "0.weight", 1: "table", 2: "1.weight"}}
    table, scale = nn.Parameter(table_of().weight.detach()), nn.Parameter(torch.rand(WIDTH).double())
    ends = [Ends(table, scale, first=True), Middle(table_of().weight), Ends(table, scale, first=False)]
    made["two weights"] = ends, {"table": [0, 2], "scale": [0, 2]}
    made["two weights, tied"] = copy.deepcopy(ends), None
    e, other = table_of(), nn.Parameter(torch.rand(WORDS, WIDTH).double())
    blocks = [nn.ModuleDict({"a": e, "b": Middle(other)}), Middle(e.weight), Head(other, bias=False)]
    made["two weights of one rank with different ranks"] = (
        [_InOrder(blocks[0]), *blocks[1:]],
        {
            "first": {0: "parts.a.weight", 1: "table"},
            "second": {0: "parts.b.table", 2: "weight"},
        },
    )
    return made


class _InOrder(nn.Module):
    def __init__(self, parts: nn.ModuleDict) -> None:
        super().__init__()
        self.parts = parts

    def forward(self, x: Any) -> Any:
        for part in self.parts.values():
            x = part(x)
        return x


def batch_of(step: int, rows: int) -> tuple[Any, Any]:
    generator = torch.Generator().manual_seed(step)
    words = torch.randint(0, WORDS, (rows, 5), generator=generator)
    return words[:, :-1], words[:, 1:]


def entropy(output: Any, target: Any) -> Any:
    return functional.cross_entropy(output.flatten(0, 1), target.flatten())


def worst_error(found: Any, expected: Any) -> float:
    """Return the greatest difference of gradients of two modules; infinite where one of a pair is missing."""
    errors = [0.0]
    for own, other in zip(found.parameters(), expected.parameters(), strict=True):
        if own.grad is None or other.grad is None or own.grad.is_sparse != other.grad.is_sparse:
            errors.append(0.0 if own.grad is other.grad else float("inf"))
        else:
            errors.append(float((own.grad.to_dense() - other.grad.to_dense()).abs().max()))
    return max(errors)


def add_up(rank: int, plan: Any, case: str, steps: int = 3) -> float:
    """Run steps whose gradients add up, on copies of a model's stages; return the worst error of any step."""
    modules, shared = models()[case]
    return _steps(rank, plan, modules, {"shared": shared} if shared else {}, steps)


def add_up_in_replicas(rank: int, plan: Any) -> float:
    """Run steps of a whole model on each process, gradients averaged over them; return the worst error of any step."""
    import torch.distributed as dist

    pipelines = [dist.new_group([each]) for each in range(dist.get_world_size())]
    options = {"group": pipelines[rank], "data_parallel": dist.group.WORLD}
    return _steps(0, plan, models()["on three ranks"][0], options, 3)


def sum_of_parts(rank: int) -> list[list[float]]:
    """Sum the gradients of a sharded weight over three ranks, each with its own shards; return the whole sum."""
    import torch.distributed as dist
    from torch.distributed.device_mesh import DeviceMesh
    from torch.distributed.tensor import Shard, distribute_tensor

    groups = [dist.new_group([each]) for each in range(3)]
    mesh = DeviceMesh.from_group(groups[rank], "cpu")
    module = nn.Linear(2, 2, bias=False)
    module.weight = nn.Parameter(distribute_tensor(torch.ones(2, 2), mesh, [Shard(0)]))
    if rank < 2:
        module.weight.grad = distribute_tensor(torch.eye(2) * (rank + 1), mesh, [Shard(0)])
    told = [weight._replace(rank=other, stage=other) for other in range(3) for weight in told_weights({0: module}, 0)]
    shared = own_shared([told], {rank: module}, rank)
    sum_shared(shared, rank, dist.group.WORLD, 30, True)
    return list(module.weight.grad.full_tensor().tolist())


def add_up_by_identity(rank: int, plan: Any) -> float:
    """Run steps on a table and a head with a bias that stand on one rank; return the worst error of any step."""
    return _steps(rank, plan, models()["a table and a head with a bias"][0], {}, 3)


def _steps(rank: int, plan: Any, modules: list[Any], options: dict[str, Any], steps: int) -> float:
    problem: Problem = plan.problem
    copies = [copy.deepcopy(modules) for _ in range(problem.replicas)]  # what a copy shares on a rank, it shares there
    own = {stage: copies[problem.copy_of(stage)][stage % problem.stages] for stage in problem.stages_of[rank]}
    runner = Runner(plan, own, entropy, timeout=30, **options)
    errors = []
    for step in range(steps):
        batch, target = batch_of(step, 2 * problem.microbatches)
        runner.step(batch, target)
        x = batch
        for module in modules:
            x = module(x)
        entropy(x, target).backward()
        errors += [worst_error(module, modules[stage % problem.stages]) for stage, module in own.items()]
    return max(errors, default=0.0)


def kinds_of_gradients(rank: int, plan: Any, kind: str) -> float:
    """Run steps on a model whose shared table has sparse gradients, none, or is frozen."""
    torch.manual_seed(5)
    table = table_of(sparse=True)
    if kind == "sparse and dense":
        modules: list[Any] = [table, Middle(table_of().weight), Head(table.weight, bias=False)]
        shared: Any = {"weight": [0, 2]}
    elif kind == "sparse":
        modules = [table, _Again(table), Head(table_of().weight, bias=False)]
        shared = {"table": {0: "weight", 1: "table.weight"}}
    else:
        modules = [
            _Unused(table_of(), table),
            Middle(table_of().weight),
            _Unused(Head(table_of().weight, bias=False), table),
        ]
        shared = {"unused.weight": [0, 2]}
        table.weight.requires_grad_(kind != "frozen")
    return _steps(rank, plan, modules, {"shared": shared}, 3)


class _Again(nn.Module):
    """Looks words up by whole numbers that it makes of its input."""

    def __init__(self, table: Any) -> None:
        super().__init__()
        self.table = table

    def forward(self, x: Any) -> Any:
        return x + self.table((x.detach().abs().sum(-1) * 7).long() % WORDS)


class _Unused(nn.Module):
    """Has a table that it does not use."""

    def __init__(self, inner: Any, unused: Any) -> None:
        super().__init__()
        self.inner, self.unused = inner, unused

    def forward(self, x: Any) -> Any:
        return self.inner(x)


def make(rank: int, plan: Any, modules: list[Any], options: Any) -> str:
    """Make a runner of modules, one for each stage, and return the error; options may be given for each rank."""
    own = {stage: modules[stage] for stage in plan.problem.stages_of[rank]}
    try:
        Runner(plan, own, entropy, timeout=30, **(options[rank] if isinstance(options, list) else options))
    except (RefusedError, InputError) as error:
        return f"{type(error).__name__}: {error}"
    return ""
