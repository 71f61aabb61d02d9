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
    runner = Runner(plan, parts_of(own.blocks, problem, rank, KINDS[kind]), models.mean_loss, timeout=60)
    result = runner.step(inputs, target)
    names = {id(weight): name for name, weight in own.model.named_parameters()}
    errors: dict[str, float] = {}
    for stage, order in orders(plan, rank).items():
        for weight in runner.modules[stage].parameters():
            called = names[id(weight)]
            errors[called] = error(weight.grad, summed(gradients[called], order))
    return Found(errors, None if result.loss is None else float(result.loss), loss, set(gradients))
