"""What low precision costs: a step by a plan and one in one process, each held against one process in float64."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, NamedTuple

import torch

from schedverify.runner import Runner
from support import transformer_models as models
from support.training_jobs import Piece, alone, orders, parts_of, shared_by, summed

LOW = torch.bfloat16
WAYS = ("weights", "autocast in", "autocast around")
"""Weights in bfloat16; autocast in the forward of each stage; autocast around the whole step."""


class Squares(NamedTuple):
    """Sums over the numbers of a weight: of the squared errors by the plan and in one process, and of squares."""

    planned: float
    alone: float
    whole: float


class InAutocast(Piece):
    """A stage whose forward computes its matrices in low precision."""

    def forward(self, *given: Any) -> Any:
        with low():
            return super().forward(*given)


def low() -> Any:
    return torch.autocast("cpu", LOW)


def around(way: str) -> AbstractContextManager[Any]:
    return low() if way == "autocast around" else nullcontext()


def compare(rank: int, plan: Any, name: str, way: str) -> dict[str, Squares]:
    """Run a step, and return what each weight of this rank's stages is off."""
    problem = plan.problem
    own, single, exact = (models.made(name) for _ in range(3))
    if way == "weights":
        for case in (own, single, exact):
            case.model.to(LOW)
    exact.model.double()
    inputs, target = models.batch(name, 2 * problem.microbatches)
    true, _ = alone(exact, models.mean_loss, inputs, target, problem.microbatches)
    if way == "autocast in":
        single = single._replace(whole=low()(single.whole))
    with around(way):
        one, _ = alone(single, models.mean_loss, inputs, target, problem.microbatches)
    pieces = parts_of(own.blocks, problem, rank, InAutocast if way == "autocast in" else Piece)
    runner = Runner(plan, pieces, models.mean_loss, timeout=60, shared=shared_by(own.blocks, problem))
    with around(way):
        runner.step(inputs, target)
    names = {id(weight): called for called, weight in own.model.named_parameters()}
    found = {}
    for stage, order in orders(plan, rank).items():
        for weight in pieces[stage].parameters():
            called = names[id(weight)]
            wanted, other = (summed(each[called], order).double() for each in (true, one))
            found[called] = Squares(*(float(x.square().sum()) for x in (weight.grad - wanted, other - wanted, wanted)))
    return found
