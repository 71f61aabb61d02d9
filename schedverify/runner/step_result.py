"""What one step comes to on one rank."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
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
    peak_in_flight
        The most pairs of stage and micro-batch that were in flight at once, counted while running.
    losses
        By last stage (of all copies) and micro-batch, the scalar that the loss function returned: the mean, or the sum
        of a pair.
    """

    loss: Any = None
    outputs: Mapping[tuple[int, int], Tensors] = field(default_factory=dict)
    peak_in_flight: int = 0
    losses: Mapping[tuple[int, int], Any] = field(default_factory=dict)
    _ran: Callable[[], tuple[StepSpan, ...]] = tuple
    _crossed: Callable[[], tuple[BoundaryTransfer, ...]] = tuple

    @cached_property
    def ran(self) -> tuple[StepSpan, ...]:
        """What ran and when, in nanoseconds, in the order of the positions; made when it is first asked for."""
        return self._ran()

    @cached_property
    def crossed(self) -> tuple[BoundaryTransfer, ...]:
        """All transfers that left or reached a stage of this rank; made when they are first asked for."""
        return self._crossed()
