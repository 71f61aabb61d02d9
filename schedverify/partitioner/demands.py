"""What is asked of each stage of a partition: how slow its rank is, what fits there, and which cuts may end it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from schedverify.partitioner.cuts import Cuts, Numbers

States = tuple[tuple[tuple[int, ...], ...], ...]


@dataclass(frozen=True, eq=False)
class Demands:
    """By stage, what it costs and holds.

    Attributes
    ----------
    slowness
        Factor on the work of the layers, a whole number of at least 1.
    states
        By rank, what is in flight where it is most: for each such moment the micro-batches of each of the rank's
        stages, in rising order.
    capacity
        Bytes of the stage's rank, or None for no limit.
    bandwidth
        Bytes per tick from this stage to the next, or None for no limit.
    allowed
        By stage and cut, whether the stage may end there.
    alone
        Layers that are a stage of their own.
    """

    slowness: tuple[int, ...]
    states: States
    placement: tuple[int, ...]
    capacity: tuple[int, ...] | None
    bandwidth: tuple[int, ...] | None
    allowed: NDArray[np.bool_]
    alone: tuple[int, ...] = ()

    @property
    def stages(self) -> int:
        """How many stages there are."""
        return len(self.slowness)

    def held(self, cuts: Cuts, stage: int) -> Numbers:
        """Return by cut the bytes that the layers before it would take on a stage that is alone on its rank."""
        return cuts.resident + max(state[0] for state in self.states[self.placement[stage]]) * cuts.activation

    def ends(self, cuts: Cuts, stage: int, bound: int) -> NDArray[np.bool_]:
        """Return by cut whether the stage may end there where no rank and no link is busy for more than ``bound``.

        A link carries each tensor twice, forward and as its gradient, in one queue (discipline ``pair``).
        """
        ends: NDArray[np.bool_] = self.allowed[stage]
        if self.bandwidth is not None and stage < self.stages - 1:
            ends = ends & (2 * -(-cuts.crossing // self.bandwidth[stage]) <= bound)
        return ends

    def earliest(self, cuts: Cuts, stage: int, bound: int) -> Numbers:
        """Return by cut the first one at which the stage may begin to end there within ``bound`` ticks of work."""
        return np.searchsorted(cuts.work, cuts.work - bound // self.slowness[stage])
