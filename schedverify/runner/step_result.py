"""What one step comes to on one rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from schedverify.core.trace import BoundaryTransfer, StepSpan
from schedverify.runner.compute.batches import Tensors


@dataclass(frozen=True)
class StepResult:
    """The results of one step on this rank.

    Attributes
    ----------
    loss
        The rank's share of the loss of the whole batch, a scalar; None where it holds no last stage. The shares of a
        pipeline's ranks add up to it; with a data-parallel group the mean of these sums over its pipelines is it.
    outputs
        In inference, the output tensors by last stage (of all copies) and micro-batch: tuples, whose ``value()`` is
        what the stage returned.
    ran
        What ran and when, in nanoseconds, in the order of the positions.
    peak_in_flight
        The most pairs of stage and micro-batch that were in flight at once, counted while running.
    crossed
        All transfers that left or reached a stage of this rank.
    losses
        By last stage (of all copies) and micro-batch, the scalar that the loss function returned: the mean, or the sum
        of a pair.
    """

    loss: Any = None
    outputs: Mapping[tuple[int, int], Tensors] = field(default_factory=dict)
    ran: tuple[StepSpan, ...] = ()
    peak_in_flight: int = 0
    crossed: tuple[BoundaryTransfer, ...] = ()
    losses: Mapping[tuple[int, int], Any] = field(default_factory=dict)
