"""Partitions of random chains beside the balancers of DeepSpeed and torchgpipe, and how long large ones take.

``python benchmarks/partition_peers.py`` draws 2000 chains by seed, in equal parts of four kinds: ``uniform`` (1 to 100
ticks a layer), ``few sizes`` (1, 2 or 10), ``heavy ends`` (equal layers, an embedding and a head of up to six times
as much) and ``long tail`` (Pareto's distribution). Each has 4 to 48 layers for 2 to 16 stages. What counts is the work
of the busiest stage. ``--count 40`` takes a sample. The peers are called as they are installed (extra ``bench``):
DeepSpeed's ``partition_balanced`` (what ``partition_method="parameters"`` uses) and ``partition_uniform``, and
torchgpipe's ``blockpartition``, which ``balance_by_time`` uses.
"""

from __future__ import annotations

import random
import statistics
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from itertools import count, pairwise
from typing import Final, NamedTuple

from printing import arguments, progress, publish, table, where

from schedverify.core.model import Layer, Model
from schedverify.partitioner import least_bottleneck
from schedverify.partitioner.account import one_of_each

KINDS: Final = ("uniform", "few sizes", "heavy ends", "long tail")
PEERS: Final = ("DeepSpeed, balanced", "DeepSpeed, uniform", "torchgpipe")
Balancer = Callable[[Sequence[int], int], int | None]
STEPS: Final = 10_000
"""Moves of one layer after which torchgpipe is taken to go round in a circle; it needs some hundreds."""


class EndlessError(Exception):
    """A balancer that goes round in a circle."""


class Case(NamedTuple):
    """The kind of a chain, and the work of the busiest stage: ours, and by peer."""

    kind: str
    ours: int
    theirs: tuple[int | None, ...]
    """None where the peer comes to no end."""


def main() -> None:
    """Cut the chains with every balancer, and print a line for each peer and kind."""
    parser = arguments(__doc__ or "", seconds=10)
    parser.add_argument("--count", type=int, default=2000, help="how many chains")
    options = parser.parse_args()
    with progress() as bar:
        cases = [judged(seed) for seed in bar.track(range(options.count), description="random chains")]
    head = (
        "peer",
        "chains",
        "cases",
        "ours worse",
        "ours better",
        "of all",
        "in the mean of these",
        "at most",
        "no end",
    )
    text = f"""{where("numpy", "deepspeed", "torchgpipe")}; seeds 0 to {options.count - 1}.

{table(head, lines(cases))}

Layers of 1 to 20,000 ticks, seed 0; time on the processor, medians of 7 runs behind a first one, DeepSpeed's of 3:

{table(("layers", "stages", "ours, ms", "DeepSpeed, balanced, ms"), times())}"""
    publish("partition-peers", text, update=options.update)


def draw(seed: int) -> tuple[str, list[int], int]:
    """Return the kind, the work of each layer and the number of stages of a seed."""
    rng = random.Random(seed)
    kind, stages = KINDS[seed % len(KINDS)], rng.randint(2, 16)
    length = rng.randint(max(stages, 4), 48)
    if kind == "uniform":
        return kind, [rng.randint(1, 100) for _ in range(length)], stages
    if kind == "few sizes":
        return kind, [rng.choice([1, 2, 10]) for _ in range(length)], stages
    if kind == "long tail":
        return kind, [round(10 * rng.paretovariate(1.2)) for _ in range(length)], stages
    works = [20] * length
    works[0], works[-1] = rng.randint(1, 120), rng.randint(20, 120)
    return kind, works, stages


def judged(seed: int) -> Case:
    """Return the busiest stage of a seed's chain by ourselves and by every peer."""
    kind, works, stages = draw(seed)
    return Case(kind, ours(works, stages), tuple(peer(works, stages) for peer in peers()))


def ours(works: Sequence[int], stages: int) -> int:
    """Return the work of the busiest stage of our partition."""
    placement = tuple(range(stages))
    cut = least_bottleneck(chain(works), placement, one_of_each(placement, stages)).layers
    return max(sum(works[i] for i in members) for members in cut)


def chain(works: Sequence[int]) -> Model:
    """Return a chain of layers that take so many ticks."""
    return Model("chain", tuple(Layer(f"l{i}", work) for i, work in enumerate(works)))


def peers() -> Iterator[Balancer]:
    """Yield the balancers of :data:`PEERS`."""
    from deepspeed.runtime.utils import partition_balanced, partition_uniform

    yield lambda works, stages: busiest(works, partition_balanced(list(works), stages))
    yield lambda works, stages: busiest(works, partition_uniform(len(works), stages))
    yield torchgpipe


def torchgpipe(works: Sequence[int], stages: int) -> int | None:
    """Return what torchgpipe comes to; its loop looks for the smallest block once for each layer that it moves."""
    from torchgpipe.balance import blockpartition

    steps = count()

    def smallest(blocks: Iterable[tuple[float, int]] | Sequence[int]) -> object:
        if next(steps) > STEPS:
            raise EndlessError
        return min(blocks)

    vars(blockpartition)["min"] = smallest
    try:
        return max(map(sum, blockpartition.solve(list(works), stages)))
    except EndlessError:
        return None


def busiest(works: Sequence[int], parts: Sequence[int]) -> int:
    """Return the most work between two bounds."""
    return max(sum(works[first:last]) for first, last in pairwise(parts))


def lines(cases: Sequence[Case]) -> Iterator[tuple[object, ...]]:
    """Yield a line for each peer over all chains, then for each kind of chains."""
    for number, peer in enumerate(PEERS):
        for kind in ("all", *KINDS):
            pairs = [(case.ours, case.theirs[number]) for case in cases if kind in ("all", case.kind)]
            ended = [(own, theirs) for own, theirs in pairs if theirs is not None]
            more = [theirs / own for own, theirs in ended if theirs > own]
            worse = sum(own > theirs for own, theirs in ended)
            share = f"{100 * len(more) / len(pairs):.1f}%" if pairs else "-"
            shown = (f"{statistics.fmean(more):.3f}x", f"{max(more):.2f}x") if more else ("-", "-")
            yield (peer, kind, len(pairs), worse, len(more), share, *shown, len(pairs) - len(ended))


def times() -> Iterator[tuple[object, ...]]:
    """Yield how long chains take; DeepSpeed's loops are cubic and would take minutes for the longest."""
    balanced = next(peers())
    for length, stages in ((48, 16), (200, 32), (1000, 64)):
        rng = random.Random(0)
        works = [rng.randint(1, 20_000) for _ in range(length)]
        model, placement = chain(works), tuple(range(stages))
        own = milliseconds(partial(least_bottleneck, model, placement, one_of_each(placement, stages)), 7)
        yield length, stages, own, milliseconds(partial(balanced, works, stages), 3) if length < 1000 else "-"


def milliseconds(run: Callable[[], object], runs: int) -> str:
    """Return the median of some runs behind a first one, in this process's time on the processor."""
    taken = []
    for _ in range(runs + 1):
        began = time.process_time()
        run()
        taken.append(1000 * (time.process_time() - began))
    return f"{statistics.median(taken[1:]):.0f}"


if __name__ == "__main__":
    main()
