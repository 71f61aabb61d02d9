"""What the pool's processes do in tests of losses: a small model of words with padded targets, on ranks and alone.

Each function takes a case, the same on every rank, and compares what its ranks come to with one process that sees all
that counts at once.
"""

from __future__ import annotations

import copy
import logging
from itertools import chain
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

from schedverify.core.problem import Problem
from schedverify.runner import Runner

WORDS, WIDTH, LENGTH = 11, 6, 9
PADDING = -100


class Words(NamedTuple):
    """A batch: by micro-batch the words of its rows and those that are wanted, of shape ``(rows, LENGTH)``."""

    inputs: list[Any]
    targets: list[Any]

    def part(self, number: int, count: int) -> Words:
        """Return the micro-batches of one pipeline of several."""
        size = len(self.inputs) // count
        return Words(*(each[number * size : (number + 1) * size] for each in self))


def words(lengths: list[list[int]], seed: int) -> Words:
    """Return a batch with rows of some lengths, by micro-batch."""
    numbers = torch.Generator().manual_seed(seed)
    inputs, targets = [], []
    for rows in lengths:
        inputs.append(torch.randint(0, WORDS, (len(rows), LENGTH), generator=numbers))
        targets.append(torch.randint(0, WORDS, (len(rows), LENGTH), generator=numbers))
        for row, length in enumerate(rows):
            targets[-1][row, length:] = PADDING
    return Words(inputs, targets)


def as_mean(output: Any, target: Any) -> Any:
    return F.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=PADDING)


def as_pair(output: Any, target: Any) -> Any:
    total = F.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=PADDING, reduction="sum")
    return total, (target != PADDING).sum()


def as_careless_pair(output: Any, target: Any) -> Any:
    """Return a pair with a NaN where nothing counts."""
    count = int((target != PADDING).sum())
    return as_mean(output, target) * count, count


def by_row(output: Any, target: Any) -> Any:
    """Return the mean over the rows of a loss in which padding counts like any word."""
    return F.cross_entropy(output.flatten(0, 1), target.flatten().clamp(0))


LOSSES = {"pair": as_pair, "careless": as_careless_pair, "mean": as_mean, "rows": by_row}


def modules_of(problem: Problem, dtype: Any = torch.float64) -> list[Any]:
    """Return the modules of one copy of the model."""
    torch.manual_seed(3)
    made: list[Any] = []
    for stage in range(problem.stages):
        parts: list[Any] = [] if stage else [nn.Embedding(WORDS, WIDTH)]
        parts += [nn.Linear(WIDTH, WIDTH), nn.Tanh()]
        parts += [nn.Linear(WIDTH, WORDS)] if not problem.successors[stage] else []
        made.append(nn.Sequential(*parts).to(dtype))
    return made


def alone(modules: list[Any], batch: Words, weights: list[float] | None, by_rows: bool) -> Any:
    """Return the loss of a batch in one process."""
    outputs = [nn.Sequential(*modules)(x) for x in batch.inputs]
    if by_rows:
        return by_row(torch.cat(outputs), torch.cat(batch.targets))
    if weights is None:
        return as_mean(torch.cat(outputs), torch.cat(batch.targets))
    pairs = [(w, as_mean(out, y)) for w, out, y in zip(weights, outputs, batch.targets, strict=True) if w]
    return sum(w * loss for w, loss in pairs) / sum(w for w, _ in pairs)


def error_of(found: Any, wanted: Any) -> float:
    """Return the greatest relative error of a module's gradients."""
    pairs = [(whole(own.grad), other.grad) for own, other in zip(found.parameters(), wanted.parameters(), strict=True)]
    return max(float((own - other).norm() / other.norm().clamp_min(1e-30)) for own, other in pairs)


def whole(tensor: Any) -> Any:
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def sharded(module: Any, group: Any) -> Any:
    return fully_shard(module, mesh=DeviceMesh.from_group(group, "cpu"))


def replicated(module: Any, group: Any) -> Any:
    return DistributedDataParallel(module, process_group=group)


WRAPPED = {"ddp": replicated, "fsdp": sharded}


def groups_of(rank: int, size: int, pipelines: int) -> dict[str, Any]:
    """Return a rank's groups of its pipeline and of its stages, as a runner takes them; none of one pipeline alone."""
    if pipelines == 1:
        return {}
    groups = [dist.new_group(list(range(first, first + size))) for first in range(0, pipelines * size, size)]
    replicas = [dist.new_group(list(range(place, pipelines * size, size))) for place in range(size)]
    return {"group": groups[rank // size], "data_parallel": replicas[rank % size]}


def train(rank: int, plan: Any, case: dict[str, Any]) -> tuple[float, float]:
    """Train some steps without forgetting a gradient; return the errors of gradients and losses.

    Parameters
    ----------
    case
        ``lengths`` by step, pipeline and micro-batch and row, ``loss``, ``weights`` by pipeline and
        micro-batch, and the name of what stages are ``wrapped`` in.
    """
    problem, pipelines = plan.problem, len(case["lengths"][0])
    number, place = divmod(rank, problem.ranks)
    modules, weights = modules_of(problem), case.get("weights")
    own = {stage: copy.deepcopy(modules[stage % problem.stages]) for stage in problem.stages_of[place]}
    options = groups_of(rank, problem.ranks, pipelines)
    if "wrapped" in case:
        group = options.pop("data_parallel")
        own = {stage: WRAPPED[case["wrapped"]](module, group) for stage, module in own.items()}
    runner = Runner(plan, own, LOSSES[case["loss"]], timeout=30, **options)
    losses = []
    for step, lengths in enumerate(case["lengths"]):
        batches = [words(each, 10 * step + i) for i, each in enumerate(lengths)]
        batch = Words(*(list(chain(*parts)) for parts in zip(*batches, strict=True)))
        wanted = alone(modules, batch, weights and list(chain(*weights)), case["loss"] == "rows")
        wanted.backward()
        result = runner.step(*batches[number], weights=weights and weights[number])
        losses.append(abs(runner.whole_loss(result) - float(wanted)))
        runner.relearn()
    errors = [error_of(module, modules[stage % problem.stages]) for stage, module in own.items()]
    return max(errors, default=0.0), max(losses)


def refused(rank: int, plan: Any, case: dict[str, Any]) -> str:
    """Train steps with a loss of its own on each rank; return what was told in the end, or logged.

    Parameters
    ----------
    case
        As of :func:`train`; ``loss`` and ``weights`` by step and rank, and further ``options`` of the runner.
    """
    problem, pipelines = plan.problem, len(case["lengths"][0])
    number, place = divmod(rank, problem.ranks)
    modules, step = modules_of(problem), 0
    own = {stage: modules[stage % problem.stages] for stage in problem.stages_of[place]}
    logged: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: logged.append(record.getMessage())  # type: ignore[method-assign]
    logging.getLogger("schedverify").addHandler(handler)

    def loss(output: Any, target: Any) -> Any:
        return LOSSES[case["loss"][step][rank]](output, target)

    options = groups_of(rank, problem.ranks, pipelines) | case.get("options", {})
    runner = Runner(plan, own, loss, timeout=30, **options)
    try:
        for step, lengths in enumerate(case["lengths"]):
            batch = words(lengths[number], step)
            weights = case["weights"][step][rank] if "weights" in case else None
            runner.whole_loss(runner.step(*batch, weights=weights))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    finally:
        logging.getLogger("schedverify").removeHandler(handler)
    return "\n".join(logged)


def two_heads(rank: int, plan: Any, case: dict[str, Any]) -> tuple[float, float] | str:
    """Train a step of a model whose stages 1 and 2 are both last; return the errors of gradients and loss, or of what.

    Parameters
    ----------
    case
        As of :func:`train`, where the first of two steps has the words of stage 1 and the second those of stage 2;
        ``weights`` by stage.
    """
    modules, problem = modules_of(plan.problem), plan.problem
    own = {stage: copy.deepcopy(modules[stage]) for stage in problem.stages_of[rank]}
    first, second = (words(step[0], 1) for step in case["lengths"])
    runner = Runner(plan, own, {1: LOSSES[case["loss"]], 2: LOSSES[case["loss"]]}, timeout=30)
    try:
        given = {1: first.targets, 2: second.targets}
        result = runner.step(first.inputs, given, weights=case.get("weights"))
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    middle = modules[0](torch.cat(first.inputs))
    targets = ((1, torch.cat(first.targets)), (2, torch.cat(second.targets)))
    wanted = sum(as_mean(modules[stage](middle), target) for stage, target in targets)
    wanted.backward()
    errors = [error_of(module, modules[stage]) for stage, module in own.items()]
    return max(errors), abs(runner.whole_loss(result) - float(wanted))
