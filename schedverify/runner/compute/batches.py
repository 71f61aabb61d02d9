"""What a step of training is fed on one rank: micro-batches of inputs and targets, and the loss of each micro-batch."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any, NamedTuple

import torch

from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.runner.compute.losses import KnownForm, Loss, amount_of
from schedverify.runner.compute.microbatches import microbatches_of
from schedverify.runner.compute.parcels import Parcel

Tensors = tuple[Any, ...]
"""Tensors that go together: what a stage reads or makes for one micro-batch."""


def rows_of(tensors: Tensors) -> int:
    """Return the rows of a micro-batch: the length of its first tensor, 1 of a scalar."""
    shape = tensors[0].shape if tensors else ()
    return int(shape[0]) if shape else 1


def counted_in(tensors: Tensors) -> int:
    """Return about how much of a target counts: the numbers of one of whole numbers, such as tokens, else its rows."""
    whole = bool(tensors) and not (tensors[0].is_floating_point() or tensors[0].is_complex())
    return int(tensors[0].numel()) if whole else rows_of(tensors)


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
    """By last stage, what the mean of each micro-batch counts for: its rows, or what the user says."""
    losses: dict[int, Callable[..., Any]]
    totals: Mapping[int, float] = MappingProxyType({})
    """By last stage, the weight of the whole batch; with a data-parallel group the mean over its pipelines."""
    weighted: bool = False
    """Whether the user says what each micro-batch counts for."""
    seed: float = 1.0
    """The gradient with which the backward of a loss that is a sum begins."""
    known: KnownForm | None = None
    """The form of the losses of earlier steps."""
    sides: Mapping[int, list[Parcel]] = MappingProxyType({})
    """By stage, further keyword arguments of each micro-batch."""

    def loss(self, stage: int, microbatch: int) -> Loss | None:
        """Return a last stage's loss of a micro-batch; None of other stages."""
        if stage not in self.losses:
            return None
        function, target = self.losses[stage], alone(self.targets[stage][microbatch])
        total, own = self.totals[stage], self.weights[stage][microbatch]
        weight = own / total if total else 0.0 if self.weighted else None
        return Loss(
            lambda outputs: function(alone(outputs), target), stage, weight,
            seed=self.seed, weighted=self.weighted, known=self.known,
        )  # fmt: skip


def feed_of(problem: Problem, rank: int, batch: Any, target: Any, loss: Any, weights: Any = None) -> Feed:
    """Cut the batch and target of this rank into micro-batches, by stage.

    Parameters
    ----------
    batch, target, loss, weights
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
    needed = [("batch", firsts), ("target", lasts), ("loss", lasts)]
    if weights is not None:
        given["weights"] = by_stage(weights, lasts)
        needed.append(("weights", lasts))
    faults = [
        Fault(name, f"rank {rank} holds stage {stage} and is given none for it", "hand it to step, or loss to Runner")
        for name, stages in needed
        for stage in stages
        if stage not in given[name]
    ]
    if faults:
        raise InputError(faults)
    count = problem.microbatches
    inputs = {stage: microbatches_of(value, count, "batch") for stage, value in given["batch"].items()}
    targets = {stage: microbatches_of(value, count, "target") for stage, value in given["target"].items()}
    if weights is None:
        amounts = {stage: [float(rows_of(part)) for part in parts] for stage, parts in targets.items()}
    else:
        amounts = {stage: amounts_of(value, count) for stage, value in given["weights"].items()}
    totals = {stage: sum(parts) for stage, parts in amounts.items()}
    return Feed(inputs, targets, amounts, given["loss"], totals, weights is not None)


def amounts_of(value: Any, count: int) -> list[float]:
    """Return what each of ``count`` micro-batches counts for.

    Raises
    ------
    InputError
        If they are not as many numbers, none of them below 0.
    """
    members = value.tolist() if isinstance(value, torch.Tensor) else value
    if not isinstance(members, list | tuple) or len(members) != count:
        found = f"{len(members)} of them" if isinstance(members, list | tuple) else type(members).__name__
        raise InputError(Fault("weights", f"{found}, where the plan has {count} micro-batches", "a number for each"))
    amounts = [amount_of(member) for member in members]
    faults = [
        Fault(f"weights[{m}]", f"it is {members[m]!r:.80}", "a number, 0 or more")
        for m, amount in enumerate(amounts)
        if amount is None
    ]
    if faults:
        raise InputError(faults)
    return [amount for amount in amounts if amount is not None]


def alone(tensors: Tensors) -> Any:
    """Return the value in which tensors stand, or the only member of a tuple, as a function of the user takes it."""
    value = tensors.value() if isinstance(tensors, Parcel) else tensors
    return value[0] if isinstance(value, tuple) and len(value) == 1 else value
