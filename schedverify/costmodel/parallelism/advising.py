"""Which set-ups of a cluster are the fastest for a model, and why others are not for it."""

from __future__ import annotations

from bisect import insort
from typing import NamedTuple

from schedverify.core.errors import InputError
from schedverify.costmodel.decoder import Decoder, Training
from schedverify.costmodel.parallelism.cluster import Cluster
from schedverify.costmodel.parallelism.pricing import Priced, Pricing
from schedverify.costmodel.parallelism.setups import Rejected, SetUp, setups_of


class Advice(NamedTuple):
    """The fastest set-ups, in order; why others are none; and which are known to be slower than all of them."""

    ranked: list[Priced]
    rejected: list[Rejected]
    slower: list[tuple[SetUp, int]]
    """With the least time that a step of them can take."""
    pricing: Pricing


def advise(shape: Decoder, training: Training, cluster: Cluster, *, top: int = 10, name: str = "") -> Advice:
    """Return the ``top`` fastest set-ups of a cluster for a decoder.

    Set-ups are priced in the order of a bound on their step, until no other can be among the fastest. A step is a
    pipeline's makespan under 1F1B (interleaved with several stages a rank), with the all-reduces of the layers in it,
    and then the reduction of the gradients; nothing of these overlaps. Links are the slowest of their group.

    Parameters
    ----------
    training
        Degrees, micro-batch size and recomputation are chosen; the rest holds.

    Raises
    ------
    InputError
        If the decoder's own numbers do not go together.
    """
    pricing = Pricing(shape, training, cluster, name)
    setups, rejected = setups_of(shape, training, cluster)
    queue: list[tuple[int, SetUp]] = []
    for setup in setups:
        try:
            if (hopeless := pricing.hopeless(setup)) is not None:
                rejected.append(hopeless)
            else:
                queue.append((pricing.least(setup), setup))
        except InputError as error:  # recomputing a layer takes more than there is
            rejected.append(Rejected(dict(setup._asdict()), f"does not fit: {error.faults[0].message}"))
    queue.sort()
    ranked: list[Priced] = []
    while queue and (len(ranked) < top or queue[0][0] < ranked[top - 1].step):
        outcome = pricing.price(queue.pop(0)[1])
        if isinstance(outcome, Rejected):
            rejected.append(outcome)
        else:
            insort(ranked, outcome, key=lambda priced: (priced.step, priced.setup))
    slower = [(priced.setup, priced.step) for priced in ranked[top:]] + [(setup, least) for least, setup in queue]
    return Advice(ranked[:top], rejected, slower, pricing)
