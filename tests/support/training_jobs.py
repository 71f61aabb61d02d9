"""What the pool's processes do in tests of real models: a step by a plan, and beside it the same in one process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from schedverify.core.model import even_parts
from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.runner import Runner
from support import transformer_models as models
from support.replica_jobs import WRAPPERS, groups_of, whole_gradients

Gradients = dict[str, list[Any]]
"""By weight, the gradient of each micro-batch's share of the mean loss; None where it has none."""


class Found(NamedTuple):
    """What a rank has of a step.

    Attributes
    ----------
    errors
        By weight of this rank's stages, the error of its gradient relative to that of one process, whose micro-batches
        are summed in the order of the plan; 0 where all bits are the same.
    share
        Of the loss; None where there is no last stage.
    loss
        Of one process.
    weights
        The names of all weights of the model.
    """

    errors: dict[str, float]
    share: float | None
    loss: float
    weights: set[str]


class Piece(nn.Module):
    """The blocks of a stage, one after the other."""

    def __init__(self, blocks: Iterable[nn.Module]) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(blocks)

    def forward(self, *given: Any) -> Any:
        for block in self.blocks:
            given = self.through(block, given if isinstance(given, tuple) else (given,))
        return given

    def through(self, block: nn.Module, given: tuple[Any, ...]) -> Any:
        return block(*given)


class Checkpointed(Piece):
    """A stage that keeps the inputs of its blocks only, and computes each forward again in the backward."""

    def through(self, block: nn.Module, given: tuple[Any, ...]) -> Any:
        return checkpoint(block, *given, use_reentrant=False)


def compiled(blocks: Iterable[nn.Module], backend: str) -> Any:
    """Return a compiled stage."""
    torch._dynamo.reset()
    return torch.compile(Piece(blocks), backend=backend)


KINDS: dict[str, Callable[[list[nn.Module]], Any]] = {
    "plain": Piece,
    "checkpointed": Checkpointed,
    "aot_eager": partial(compiled, backend="aot_eager"),
    "inductor": partial(compiled, backend="inductor"),
}


def parts_of(blocks: list[nn.Module], problem: Problem, rank: int, kind: Callable[[list[nn.Module]], Any]) -> Any:
    """Return by stage the modules of a rank, made of the model's blocks, which are cut evenly."""
    parts = even_parts(len(blocks), problem.stages)
    own = {stage: parts[stage % problem.stages] for stage in problem.stages_of[rank]}
    return {stage: kind(blocks[part.start : part.stop]) for stage, part in own.items()}


def shared_by(blocks: list[nn.Module], problem: Problem) -> dict[str, dict[int, str]]:
    """Return by a word for each weight of several stages its names there."""
    names: dict[int, dict[int, str]] = {}
    for stage, part in enumerate(even_parts(len(blocks), problem.stages)):
        for name, weight in Piece(blocks[part.start : part.stop]).named_parameters():
            names.setdefault(id(weight), {})[stage] = name
    return {f"shared {i}": found for i, found in enumerate(names.values()) if len(found) > 1}


def alone(case: models.Case, loss: Callable[..., Any], inputs: Any, target: Any, count: int) -> tuple[Gradients, float]:
    """Compute in one process the gradients of each micro-batch by the model's own forward, and the mean loss."""
    tensors = inputs if isinstance(inputs, tuple) else (inputs,)
    rows = [tensor.tensor_split(count) for tensor in (*tensors, target)]
    weights = dict(case.model.named_parameters())
    found: Gradients = {name: [] for name in weights}
    whole = 0.0
    for *part, wanted in zip(*rows, strict=True):
        share = torch.tensor(len(wanted) / len(target))
        each = loss(case.whole(*part), wanted)
        gradients = torch.autograd.grad(each, list(weights.values()), share.to(each.dtype), allow_unused=True)
        for parts, gradient in zip(found.values(), gradients, strict=True):
            parts.append(gradient)
        whole += float(each.detach()) * float(share)
    return found, whole


def orders(plan: Any, rank: int) -> dict[int, list[int]]:
    """Return by stage the micro-batches in the order in which a rank adds their gradients."""
    found: dict[int, list[int]] = {stage: [] for stage in plan.problem.stages_of[rank]}
    for step in plan.schedule.steps(rank):
        for op in step.ops:
            if op.kind in (Kind.B, Kind.W):
                found[op.stage].append(op.microbatch)
    return found


def summed(parts: list[Any], order: Iterable[int]) -> Any:
    """Return the sum of gradients in an order, as autograd adds them up; None where there is none."""
    given = [parts[m] for m in order if parts[m] is not None]
    if not given:
        return None
    total = given[0].clone()
    for each in given[1:]:
        total.add_(each)
    return total


def error(found: Any, wanted: Any) -> float:
    """Return the relative error of a gradient; infinite where one of the two is missing."""
    if found is None or wanted is None:
        return 0.0 if found is wanted else float("inf")
    difference = (found.double() - wanted.double()).norm()
    return float(difference / wanted.double().norm().clamp_min(1e-30))


def train(rank: int, plan: Any, name: str, kind: str = "plain") -> Found:
    """Run a step of a plan, and compare this rank's gradients with those of one process."""
    problem = plan.problem
    reference, own = models.made(name), models.made(name)
    inputs, target = models.batch(name, 2 * problem.microbatches)
    gradients, loss = alone(reference, models.mean_loss, inputs, target, problem.microbatches)
    pieces, shared = parts_of(own.blocks, problem, rank, KINDS[kind]), shared_by(own.blocks, problem)
    runner = Runner(plan, pieces, models.mean_loss, timeout=60, shared=shared)
    result = runner.step(inputs, target)
    names = {id(weight): name for name, weight in own.model.named_parameters()}
    errors: dict[str, float] = {}
    for stage, order in orders(plan, rank).items():
        for weight in runner.modules[stage].parameters():
            called = names[id(weight)]
            errors[called] = error(weight.grad, summed(gradients[called], order))
    return Found(errors, None if result.loss is None else float(result.loss), loss, set(gradients))


def train_replicas(rank: int, plan: Any, name: str, way: str) -> dict[str, float]:
    """Run a step in two pipelines, each on half of the batch; return the errors of this rank's gradients."""
    number, place, pipeline, replicas = groups_of(rank)
    problem = plan.problem
    reference, own = models.made(name), models.made(name)
    inputs, target = models.batch(name, 4 * problem.microbatches)
    gradients, _ = alone(reference, models.mean_loss, inputs, target, problem.microbatches)
    names = {id(weight): called for called, weight in own.model.named_parameters()}
    pieces, shared = parts_of(own.blocks, problem, place, Piece), shared_by(own.blocks, problem)
    called = {stage: {n: names[id(w)] for n, w in piece.named_parameters()} for stage, piece in pieces.items()}
    group = replicas if way == "data_parallel" else None
    if group is None:
        pieces = {stage: WRAPPERS[way](piece, replicas) for stage, piece in pieces.items()}
    runner = Runner(plan, pieces, models.mean_loss, group=pipeline, data_parallel=group, shared=shared, timeout=60)
    halves = [tuple(each.tensor_split(2)[number] for each in inputs) if isinstance(inputs, tuple)
              else inputs.tensor_split(2)[number], target.tensor_split(2)[number]]  # fmt: skip
    runner.step(*halves)
    return {
        called[stage][n]: error(gradient, summed(gradients[called[stage][n]], range(problem.microbatches)))
        for stage, piece in pieces.items()
        for n, gradient in whole_gradients(piece).items()
    }
