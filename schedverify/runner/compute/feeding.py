"""What a step of training is fed on this rank: inputs of first stages, losses of last ones, each with its weight."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch

from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.runner.compute.batches import Tensors, by_stage, microbatches_of, rows_of
from schedverify.runner.compute.stages import Loss


class Feed(NamedTuple):
    """What a step of training is fed on one rank; stages are those of one copy."""

    inputs: dict[int, list[Tensors]]
    """By first stage, the inputs of each micro-batch."""
    targets: dict[int, list[Tensors]]
    """By last stage, the targets of each micro-batch."""
    weights: dict[int, list[float]]
    """By last stage, the share of each micro-batch in the whole batch."""
    losses: dict[int, Callable[..., Any]]

    def loss(self, stage: int, microbatch: int) -> Loss | None:
        """Return a last stage's loss of a micro-batch; None of other stages."""
        if stage not in self.losses:
            return None
        function, target = self.losses[stage], self.targets[stage][microbatch]
        weight = self.weights[stage][microbatch]
        return Loss(lambda outputs: _scalar(function(_alone(outputs), _alone(target)), stage), weight)


def feed_of(problem: Problem, rank: int, batch: Any, target: Any, loss: Any) -> Feed:
    """Cut what this rank is given into micro-batches.

    Raises
    ------
    InputError
        If a first stage of the rank has no inputs, or a last one no targets or loss, or they cannot be cut.
    """
    here = sorted({stage % problem.stages for stage in problem.stages_of[rank] if _is_used(problem, stage)})
    firsts = [stage for stage in here if not problem.predecessors[stage]]
    lasts = [stage for stage in here if not problem.successors[stage]] if problem.form != "inference" else []
    given = {"batch": by_stage(batch, firsts), "target": by_stage(target, lasts), "loss": by_stage(loss, lasts)}
    faults = [
        Fault(name, f"rank {rank} holds stage {stage} and is given none for it", "hand it to step, or loss to Runner")
        for name, stages in (("batch", firsts), ("target", lasts), ("loss", lasts))
        for stage in stages
        if stage not in given[name]
    ]
    if faults:
        raise InputError(faults)
    count = problem.microbatches
    inputs = {stage: microbatches_of(value, count, "batch") for stage, value in given["batch"].items()}
    targets = {stage: microbatches_of(value, count, "target") for stage, value in given["target"].items()}
    weights = {stage: _shares(list(map(rows_of, parts))) for stage, parts in targets.items()}
    return Feed(inputs, targets, weights, given["loss"])


def _scalar(loss: Any, stage: int) -> Any:
    if isinstance(loss, torch.Tensor) and loss.numel() == 1:
        return loss
    found = f"a tensor of {loss.numel()} numbers" if isinstance(loss, torch.Tensor) else type(loss).__name__
    raise InputError(Fault("loss", f"of stage {stage} it is {found}", "return a scalar, the mean over the rows"))


def _is_used(problem: Problem, stage: int) -> bool:
    return problem.copy_of(stage) in problem.replica_of


def _shares(rows: list[int]) -> list[float]:
    return [count / sum(rows) for count in rows]


def _alone(tensors: Tensors) -> Any:
    return tensors[0] if len(tensors) == 1 else tensors
