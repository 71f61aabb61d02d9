"""What the pool's processes do in tests of random numbers: blocks that note what they draw, for which micro-batch."""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.nn import functional
from torch.nn.parallel import DistributedDataParallel

from schedverify.runner import Runner
from schedverify.runner.compute.randoms import replica_of
from schedverify.runner.compute.wrapping import replicas_of
from schedverify.runner.launch import session
from schedverify.runner.launch.source import stages_of

BLOCKS = 8
WIDTH = 48
"""Numbers of a mask: so many that two masks hardly are alike by chance."""
Drawn = dict[tuple[Any, int, int], list[list[float]]]
"""What was drawn by block (or ``"loss"``), step and micro-batch, in the order in which it was drawn."""


class Noisy(torch.autograd.Function):
    """Lets its input pass, and draws when the gradient comes back."""

    @staticmethod
    def forward(context: Any, tensor: Any) -> Any:
        return tensor.view_as(tensor)

    @staticmethod
    def backward(context: Any, gradient: Any) -> Any:
        return gradient + 0 * torch.rand(())


class Draws(nn.Module):
    """Notes a mask of dropout for each micro-batch, whose number stands in the first column of its rows."""

    def __init__(self, number: int, drawn: Drawn) -> None:
        super().__init__()
        self.number, self.drawn, self.step = number, drawn, 0
        self.weight = nn.Parameter(torch.ones(()))

    def forward(self, x: Any) -> Any:
        mask = functional.dropout(torch.ones(WIDTH), 0.5)
        self.drawn.setdefault((self.number, self.step, int(x[0, 0])), []).append(mask.tolist())
        return Noisy.apply(x * self.weight)


def drawn(
    rank: int, plan: Any, *, steps: int = 1, seed: int = 0, first: int = 0, by_stage: bool = False, side: int = 0,
    blocks: int = BLOCKS,
) -> tuple[Drawn, bool]:  # fmt: skip
    """Run a plan, and return what was drawn on this rank, and whether the process has the random state it had.

    Parameters
    ----------
    first
        The number of the first step.
    by_stage
        Whether the stages are made without ``run``.
    side
        Ranks of each of several pipelines side by side, which share the batch; 0 where there is one of all ranks.
    """
    found: Drawn = {}
    made = [Draws(number, found) for number in range(blocks)]
    loss_step = [0]

    def loss(output: Any, target: Any) -> Any:
        mask = functional.dropout(torch.ones(WIDTH), 0.5)
        found.setdefault(("loss", loss_step[0], int(target[0, 0])), []).append(mask.tolist())
        return (output * mask.mean()).mean()

    count, options = plan.problem.microbatches, {}
    place, number = rank, 0
    if side:
        ranks = range(dist.get_world_size())
        pipelines = [dist.new_group([*ranks][at : at + side]) for at in ranks[::side]]
        replicas = [dist.new_group([*ranks][at::side]) for at in range(side)]
        number, place = divmod(rank, side)
        options = {"group": pipelines[number], "data_parallel": replicas[place]}
    own = {s: made[s % plan.problem.stages] for s in plan.problem.stages_of[place]}
    if not by_stage:
        own = stages_of(plan, tuple((str(i), block) for i, block in enumerate(made)), place)
        for block in (block for module in own.values() for block in module):
            block.drawn = found  # a copy of the model has copies of its blocks
    runner = Runner(plan, own, loss, timeout=30, seed=seed, **options)
    runner.next_step = first
    rows = (torch.arange(count) + number * count).float()[:, None].repeat(1, WIDTH)
    torch.manual_seed(5)
    for step in range(first, first + steps):
        loss_step[0] = step
        for module in own.values():
            for block in module.modules():
                block.step = step
        runner.step(rows, rows)
    after = torch.rand(3)
    return found, torch.equal(after, torch.rand(3, generator=torch.Generator().manual_seed(5)))


def model() -> Any:
    """Return a model with dropout in its blocks and its loss, whose batches are drawn of the process's own numbers."""
    blocks = [nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.3), nn.Tanh()) for _ in range(BLOCKS)]
    blocks[1] = nn.Sequential(nn.LSTM(8, 8, num_layers=2, dropout=0.5), First())

    def batch(_: int) -> Any:
        return torch.randn(2, 16, 8, dtype=torch.float64)

    def loss(output: Any, target: Any) -> Any:
        return nn.functional.mse_loss(functional.dropout(output, 0.2), target)

    return [block.double() for block in blocks], batch, loss


class First(nn.Module):
    def forward(self, given: Any) -> Any:
        return given[0]


def losses(rank: int, plan: Any, seed: int = 0) -> tuple[float, ...]:
    """Train ``model`` as the command ``run`` does, and return the loss of each step."""
    settings = session.RunSettings(plan, "support.random_jobs:model", steps=3, learning_rate=0.3, seed=seed)
    return session.session(settings, lambda _: None)


def replica_numbers(rank: int) -> tuple[int, ...]:
    """Return this rank's number in a group of every second rank: given, of a wrapped stage, of sharded ones; alone."""
    groups = [dist.new_group([first, first + 2]) for first in (0, 1)]
    group = groups[rank % 2]
    wrapped = DistributedDataParallel(nn.Linear(2, 2), process_group=group)
    mesh = init_device_mesh("cpu", (2, 2), mesh_dim_names=("data", "pipe"))
    sharded, both = nn.Sequential(nn.Linear(2, 2)), nn.Sequential(nn.Linear(2, 2))
    fully_shard(sharded, mesh=mesh["data"])
    fully_shard(both, mesh=mesh)
    given = ((nn.Linear(2, 2), group), (wrapped, None), (sharded, None), (both, None), (nn.Linear(2, 2), None))
    return tuple(replica_of(replicas_of({0: module}, among, (), rank, 30).values()) for module, among in given)
