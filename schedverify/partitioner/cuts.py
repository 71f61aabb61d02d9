"""Where a model can be cut: the sets of layers that can stand before a cut, and what they come to.

A stage is the difference of two nested sets that hold, with each layer, all that feed it (down-sets). Of a chain these
are its beginnings, one for each number of layers; of a graph there are more, up to :data:`MOST_SETS`, beyond which the
layers are taken in their order as if they were a chain.

Source: Harlap et al., PipeDream, arXiv 1806.03377, section 3.2; Tarnawski et al., Efficient Algorithms for Device
Placement of DNN Graph Operators, NeurIPS 2020 (ideals).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schedverify.core.model import Model

MOST_SETS: Final = 50_000
Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cuts:
    """The cuts of a model, in an order in which each stands behind those whose layers it holds.

    The first has no layer before it, the last all of them.
    """

    work: Numbers
    """For each cut, the ticks of F and of the whole backward of the layers before it."""
    resident: Numbers
    """Bytes of their parameters and state."""
    activation: Numbers
    """Bytes that one micro-batch in flight holds of them."""
    crossing: Numbers
    """Bytes that go over the cut in one micro-batch's forward: each output that is read behind it, once."""
    members: NDArray[np.bool_] | None
    """By cut and layer, whether the layer stands before the cut; None for a chain, where cut ``i`` has the first ``i``.
    """
    linearized: bool = False
    """Whether the layers were taken as a chain though they are none, because they have too many down-sets."""

    def __len__(self) -> int:
        return len(self.work)

    def layers_between(self, first: int, last: int) -> tuple[int, ...]:
        """Return the layers before the cut ``last`` and not before ``first``, in their order."""
        if self.members is None:
            return tuple(range(first, last))
        return tuple(np.flatnonzero(self.members[last] & ~self.members[first]).tolist())


def cuts_of(model: Model, most: int = MOST_SETS) -> Cuts:
    """Return the cuts of a model; a graph with more than ``most`` down-sets is taken as a chain."""
    layers = model.layers
    columns = np.array(
        [
            [layer.forward + layer.backward for layer in layers],
            [layer.parameters + layer.state for layer in layers],
            [layer.activation for layer in layers],
        ],
        dtype=np.int64,
    )
    members = None if model.chain else _down_sets(model, most)
    if members is None:
        before = np.concatenate((np.zeros((3, 1), dtype=np.int64), np.cumsum(columns, axis=1)), axis=1)
        return Cuts(before[0], before[1], before[2], _crossing_in_order(model), None, not model.chain)
    members = members[np.lexsort((members.sum(axis=1), members @ columns[0]))]
    sums = [members @ column for column in columns]
    return Cuts(sums[0], sums[1], sums[2], _crossing(model, members), members)


def _crossing_in_order(model: Model) -> Numbers:
    """Return the bytes over each cut of the layers in their order."""
    change = np.zeros(len(model.layers) + 1, dtype=np.int64)
    for source, target in dict(sorted(model.all_edges)).items():
        change[source + 1] += model.layers[source].output
        change[target + 1] -= model.layers[source].output
    return np.cumsum(change)


def _down_sets(model: Model, most: int) -> NDArray[np.bool_] | None:
    """Return every down-set of the graph, by set and layer, or None where there are more than ``most``."""
    needed = [0] * len(model.layers)
    for source, target in model.all_edges:
        needed[target] |= 1 << source
    seen, stack = {0}, [0]
    while stack:
        for larger in _one_more(stack.pop(), needed):
            if larger not in seen:
                seen.add(larger)
                stack.append(larger)
        if len(seen) > most:
            return None
    width = (len(needed) + 7) // 8
    packed = np.frombuffer(b"".join(found.to_bytes(width, "little") for found in seen), dtype=np.uint8)
    bits = np.unpackbits(packed.reshape(len(seen), width), axis=1, bitorder="little", count=len(needed))
    return bits.astype(np.bool_)


def _one_more(found: int, needed: list[int]) -> Iterator[int]:
    for layer, before in enumerate(needed):
        if not found >> layer & 1 and not before & ~found:
            yield found | 1 << layer


def _crossing(model: Model, members: NDArray[np.bool_]) -> Numbers:
    total = np.zeros(len(members), dtype=np.int64)
    for source, layer in enumerate(model.layers):
        targets = [b for a, b in model.all_edges if a == source]
        if targets and layer.output:
            total += layer.output * (members[:, source] & ~members[:, targets].all(axis=1))
    return total
