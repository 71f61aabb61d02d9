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
from functools import cached_property
from typing import Final

import numpy as np
from numpy.typing import NDArray

from schedverify.core.model import Model

MOST_SETS: Final = 50_000
NEVER: Final = np.int64(1) << 62
"""Stands in tables of ticks or bytes where there is no partition."""
Ints = tuple[int, ...]
Numbers = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Cuts:
    """The cuts of a model, in an order in which each stands behind those whose layers it holds.

    The first has no layer before it, the last all of them. What a stage from cut ``a`` to cut ``b`` comes to is
    ``table[b] - table[a]``, of a chain as of a graph; of three layers ``l0 -> l1, l0 -> l2`` with work 4, 3 and 5::

        cut               0    1     2       3       4
        layers before it  {}   {0}   {0,1}   {0,2}   {0,1,2}
        work              0    4     7       9       12
        members[cut]      000  100   110     101     111

    Cuts 2 and 3 are not nested: no stage lies between them.

    Attributes
    ----------
    work
        Ticks of F and of the whole backward of the layers before each cut, shape (cuts,).
    resident
        Bytes of their parameters and state, shape (cuts,).
    activation
        Bytes that one micro-batch in flight holds of them, without the entries of layers that others feed.
    stash
        Those of the activation's bytes that wait for W, shape (cuts,).
    crossing
        Bytes that go over each cut in one micro-batch's forward: each output that is read behind it, once.
    entry
        By layer the bytes that a stage holds beside, where a layer that feeds this one stands before the stage.
    kept
        By cut, the layers with such an entry that a stage which begins there keeps, if it reaches as far: pairs of a
        cut and a layer, in the order of the cuts, shape (pairs, 2).
    members
        Whether each layer stands before each cut, shape (cuts, layers); None for a chain, whose cut ``i`` has the first
        ``i`` layers before it.
    linearized
        Whether the layers were taken as a chain though they are none, because they have too many down-sets.
    """

    work: Numbers
    resident: Numbers
    activation: Numbers
    stash: Numbers
    crossing: Numbers
    entry: Numbers
    kept: Numbers
    members: NDArray[np.bool_] | None
    linearized: bool = False

    def __len__(self) -> int:
        return len(self.work)

    def layers_between(self, first: int, last: int) -> Ints:
        """Return the layers before the cut ``last`` and not before ``first``, in their order."""
        if self.members is None:
            return tuple(range(first, last))
        return tuple(np.flatnonzero(self.members[last] & ~self.members[first]).tolist())

    def count_before(self, layers: Ints) -> Numbers:
        """Return how many of some layers, in rising order, stand before each cut, shape (cuts,)."""
        if self.members is None:
            return np.asarray(np.searchsorted(np.array(layers), np.arange(len(self))))
        return np.asarray(self.members[:, list(layers)].sum(axis=1))

    @cached_property
    def kept_offsets(self) -> Numbers:
        """Where in :attr:`kept` the layers of each cut begin, and behind the last one the end, shape (cuts + 1,)."""
        return np.asarray(np.searchsorted(self.kept[:, 0], np.arange(len(self) + 1)))

    def activation_from(self, begin: int) -> Numbers:
        """Return by end the bytes that a micro-batch in flight holds of a stage that begins at a cut, shape (cuts,).

        What waits for W is a part of it, so that it is no less than that.
        """
        held = self.activation - self.activation[begin]
        for layer in self.kept[self.kept_offsets[begin] : self.kept_offsets[begin + 1], 1].tolist():
            inside = np.arange(len(self)) > layer if self.members is None else self.members[:, layer]
            held = held + self.entry[layer] * inside
        return np.asarray(np.maximum(held, self.stash - self.stash[begin]))


def cuts_of(model: Model, most: int = MOST_SETS) -> Cuts:
    """Return the cuts of a model; a graph with more than ``most`` down-sets is taken as a chain."""
    fed = {target for _, target in model.all_edges}
    entry = np.array([layer.entry if i in fed else 0 for i, layer in enumerate(model.layers)], dtype=np.int64)
    rows = [(layer.work, layer.resident, layer.activation, layer.weight_stash) for layer in model.layers]
    columns = np.array(list(zip(*rows, strict=True)), dtype=np.int64)
    columns[2] -= entry
    members = None if model.chain else _down_sets(model, most)
    if members is None:
        work, resident, activation, stash = np.pad(np.cumsum(columns, axis=1), ((0, 0), (1, 0)))
        crossing, kept = _crossing_in_order(model), _kept_in_order(model, entry)
        return Cuts(work, resident, activation, stash, crossing, entry, kept, None, not model.chain)
    members = members[np.lexsort((members.sum(axis=1), members @ columns[0]))]
    work, resident, activation, stash = (members @ column for column in columns)
    crossing, kept = _crossing(model, members), _kept(model, members, entry)
    return Cuts(work, resident, activation, stash, crossing, entry, kept, members)


def possible_stages(cuts: Cuts, alone: Ints) -> NDArray[np.bool_]:
    """Return whether the layers between two cuts can be a stage, by its begin and its end, shape (cuts, cuts).

    That is where the cuts are nested, and no layer that must be alone has others beside it. Of a chain with layer 1
    alone, where the row is the begin and the column the end::

           0 1 2 3 4
        0  . x . . .       x  may be a stage
        1  . . x . .       .  may not: empty, or layer 1 with others
        2  . . . x x
        3  . . . . x
    """
    members = cuts.members
    if members is None:
        stages = ~np.tri(len(cuts), dtype=np.bool_)
        for layer in alone:
            by_itself = stages[layer, layer + 1]
            stages[: layer + 1, layer + 1 :] = False
            stages[layer, layer + 1] = by_itself
        return stages
    sizes, stages = members.sum(axis=1), np.zeros((len(cuts), len(cuts)), dtype=np.bool_)
    for end in range(len(cuts)):
        inside = ~(members & ~members[end]).any(axis=1)
        crowded = sizes[end] - sizes > 1
        for layer in alone:
            inside &= ~(crowded & members[end, layer] & ~members[:, layer])
        stages[:end, end] = inside[:end]
    return stages


def _crossing_in_order(model: Model) -> Numbers:
    """Return the bytes over each cut of the layers in their order, shape (cuts,).

    An output is on its way over the cuts behind its layer up to the last layer that reads it: the sizes are added
    where that begins, taken off where it ends, and summed up. The dict keeps the last reader of each layer.
    """
    change = np.zeros(len(model.layers) + 1, dtype=np.int64)
    for source, target in dict(sorted(model.all_edges)).items():
        change[source + 1] += model.layers[source].output
        change[target + 1] -= model.layers[source].output
    return np.cumsum(change)


def _kept_in_order(model: Model, entry: Numbers) -> Numbers:
    """Return :attr:`Cuts.kept` of the layers in their order: from behind the first that feeds a layer up to itself."""
    first = {target: source for source, target in sorted(model.all_edges, reverse=True)}
    pairs = [(cut, layer) for layer, source in first.items() if entry[layer] for cut in range(source + 1, layer + 1)]
    return np.array(sorted(pairs), dtype=np.int64).reshape(-1, 2)


def _kept(model: Model, members: NDArray[np.bool_], entry: Numbers) -> Numbers:
    """Return :attr:`Cuts.kept` of down-sets: the layers behind each cut that a layer before it feeds."""
    reads = np.zeros_like(members)
    for source, target in model.all_edges:
        if entry[target]:
            reads[:, target] |= members[:, source]
    return np.argwhere(reads & ~members)


def _down_sets(model: Model, most: int) -> NDArray[np.bool_] | None:
    """Return every down-set of the graph, shape (sets, layers), or None where there are more than ``most``.

    A set is the bits of a whole number, layer 0 the lowest; ``needed[layer]`` has the layers that feed a layer.
    """
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
    """Yield the down-sets with one layer more: one that is not in the set, with all that feeds it inside."""
    for layer, before in enumerate(needed):
        if not found >> layer & 1 and not before & ~found:
            yield found | 1 << layer


def _crossing(model: Model, members: NDArray[np.bool_]) -> Numbers:
    """Return the bytes over each down-set's cut: outputs of layers in it that a layer outside reads, shape (cuts,)."""
    total = np.zeros(len(members), dtype=np.int64)
    for source, layer in enumerate(model.layers):
        targets = [b for a, b in model.all_edges if a == source]
        if targets and layer.output:
            total += layer.output * (members[:, source] & ~members[:, targets].all(axis=1))
    return total
