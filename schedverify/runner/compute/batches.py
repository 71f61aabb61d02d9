"""What a step of training is fed on one rank: micro-batches of inputs and targets, and the loss of each micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.runner.compute.microbatches import microbatches_of
from schedverify.runner.compute.parcels import Parcel

Tensors = tuple[Any, ...]
"""Tensors that go together: what a stage reads or makes for one micro-batch."""


class Loss(NamedTuple):
    """A last stage's loss of one micro-batch."""

    of: Callable[[Tensors], Any]
    """Takes the stage's outputs and returns a scalar, the mean over the rows."""
    weight: float
    """The micro-batch's share of the batch's rows: the gradient with which the backward begins."""


def rows_of(tensors: Tensors) -> int:
    """Return the rows of a micro-batch: the length of its first tensor, 1 of a scalar."""
    return len(tensors[0]) if tensors and tensors[0].dim() else 1


def by_stage(value: Any, stages: Sequence[int]) -> dict[int, Any]:
    """Return a value by stage: the entries of a mapping, or one value for every stage; nothing for None.

    A mapping whose keys are texts is one value.
    """
    if isinstance(value, Mapping) and not (value and all(isinstance(key, str) for key in value)):
        return {stage: value[stage] for stage in stages if stage in value}
    return {} if value is None else dict.fromkeys(stages, value)


class Feed(NamedTuple):
    """What a step of training is fed on one rank, by stage of one copy of the model."""

    inputs: dict[int, list[Parcel]]
    """By first stage, the inputs of each micro-batch."""
    targets: dict[int, list[Parcel]]
    """By last stage, the targets of each micro-batch."""
    weights: dict[int, list[float]]
    """By last stage, the share of each micro-batch in the whole batch."""
    losses: dict[int, Callable[..., Any]]
    sides: Mapping[int, list[Parcel]] = MappingProxyType({})
    """By stage, further keyword arguments of each micro-batch."""

    def loss(self, stage: int, microbatch: int) -> Loss | None:
        """Return a last stage's loss of a micro-batch; None of other stages."""
        if stage not in self.losses:
            return None
        function, target = self.losses[stage], alone(self.targets[stage][microbatch])
        return Loss(lambda outputs: _scalar(function(alone(outputs), target), stage), self.weights[stage][microbatch])


def feed_of(problem: Problem, rank: int, batch: Any, target: Any, loss: Any) -> Feed:
    """Cut the batch and target of this rank into micro-batches, by stage.

    Parameters
    ----------
    batch, target, loss
        As :class:`schedverify.runner.Runner` and its ``step`` take them.

    Raises
    ------
    InputError
        If a first stage of the rank has no inputs, or a last one no targets or loss, or they cannot be cut.
    """
    used = set(problem.replica_of)
    own = sorted({stage % problem.stages for stage in problem.stages_of[rank] if problem.copy_of(stage) in used})
    firsts = [stage for stage in own if not problem.predecessors[stage]]
    lasts = [stage for stage in own if not problem.successors[stage]] if problem.form != "inference" else []
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
    rows = {stage: list(map(rows_of, parts)) for stage, parts in targets.items()}
    weights = {stage: [count / sum(counts) for count in counts] for stage, counts in rows.items()}
    return Feed(inputs, targets, weights, given["loss"])


def _scalar(loss: Any, stage: int) -> Any:
    if isinstance(loss, torch.Tensor) and loss.numel() == 1:
        return loss
    found = f"a tensor of {loss.numel()} numbers" if isinstance(loss, torch.Tensor) else type(loss).__name__
    raise InputError(Fault("loss", f"of stage {stage} it is {found}", "return a scalar, the mean over the rows"))


def alone(tensors: Tensors) -> Any:
    """Return the value in which tensors stand, or the only member of a tuple, as a function of the user takes it."""
    value = tensors.value() if isinstance(tensors, Parcel) else tensors
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value
