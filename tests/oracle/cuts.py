"""Partitions by trying every one: what each comes to, written from the page on partitions and the semantics.

It shares no code with the partitioner. Of schedverify it takes the values Model and Problem, and the order of a family,
which is what a rank runs; what that holds is counted here, step by step.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import schedverify as sv
from schedverify.core.model import Model

Stages = list[list[int]]
"""By stage, the positions of its layers."""


class Judged(NamedTuple):
    """A partition, and what it comes to.

    Attributes
    ----------
    order
        What counts, in the order in which it counts: ticks of the busiest rank or link, with several stages a rank
        those of the largest stage, bytes between ranks.
    peaks
        By rank, the bytes that the family's schedule holds at most.
    lacks
        Bytes that the rank which lacks most lacks; 0 where all fits.
    """

    stages: Stages
    order: tuple[int, ...]
    peaks: list[int]
    lacks: int


def every(model: Model, stages: int) -> Iterator[Stages]:
    """Yield every partition that keeps edges and wishes: stage by stage, layers that nothing left out feeds."""
    count = len(model.layers)
    edges = model.all_edges
    where: list[int] = []

    def deal() -> Iterator[Stages]:
        layer = len(where)
        if layer == count:
            on = [[i for i, stage in enumerate(where) if stage == number] for number in range(stages)]
            if all(on) and _wished(model, where, on):
                yield on
            return
        least = max((where[source] for source, target in edges if target == layer), default=0)
        for stage in range(least, stages):
            where.append(stage)
            yield from deal()
            where.pop()

    yield from deal()


def _wished(model: Model, where: list[int], on: Stages) -> bool:
    wishes = model.constraints
    for layer, stage in wishes.pinned:
        if where[layer] != (stage if stage >= 0 else len(on) + stage):
            return False
    for group in wishes.together:
        if any(where[layer] != where[group[0]] for layer in group):
            return False
    return all(on[where[layer]] == [layer] for layer in wishes.alone)


def placement_of(ranks: int, virtual: int, family: str) -> list[int]:
    """Return the rank of each stage."""
    if family == "zb-v":
        return [*range(ranks), *reversed(range(ranks))]
    return [stage % ranks for stage in range(ranks * virtual)]


def judged(model: Model, on: Stages, placement: list[int], ranks: int, microbatches: int, family: str) -> Judged:
    """Return what a partition comes to under a family's schedule."""
    if family in BY_COSTS:
        order = str(sv.generate(family, problem_of(model, on, placement, ranks, microbatches)))
    else:
        order = _order(family, ranks, len(on) // ranks, microbatches)
    peaks = held(model, on, placement, order)
    memory = model.devices.memory
    rooms = [memory[0 if len(memory) == 1 else rank] for rank in range(ranks)] if memory else peaks
    lacks = max(0, *(peak - room for peak, room in zip(peaks, rooms, strict=True)))
    return Judged(on, order_of(model, on, placement), peaks, lacks)


BY_COSTS = ("zb-1p", "zb-2p", "zb-v")
"""Families whose order follows the costs of the stages."""


@lru_cache(maxsize=64)
def _order(family: str, ranks: int, virtual: int, microbatches: int) -> str:
    form = "split" if family.startswith("zb") else "fused"
    return str(
        sv.generate(family, sv.Problem.chain(ranks=ranks, microbatches=microbatches, virtual=virtual, form=form))
    )


def order_of(model: Model, on: Stages, placement: list[int]) -> tuple[int, ...]:
    """Return what counts of a partition, in the order in which it counts."""
    devices, ranks = model.devices, set(placement)
    slow = {rank: devices.slowness[rank if len(devices.slowness) > 1 else 0] for rank in ranks}
    ticks = [slow[placement[s]] * sum(model.layers[i].forward + model.layers[i].backward for i in on[s])
             for s in range(len(on))]  # fmt: skip
    busy = [sum(ticks[s] for s in range(len(on)) if placement[s] == rank) for rank in ranks]
    queue: dict[frozenset[int], int] = {}
    total = 0
    for s, size in enumerate(sent(model, on)):
        ends = frozenset(placement[s : s + 2])
        if len(ends) == 2:
            total += size
            if devices.bandwidth is not None:
                queue[ends] = queue.get(ends, 0) + 2 * ((size + devices.bandwidth - 1) // devices.bandwidth)
    busiest = max([*busy, *queue.values()])
    return (busiest, total) if len(ranks) == len(on) else (busiest, max(ticks), total)


def sent(model: Model, on: Stages) -> list[int]:
    """Return by stage but the last the bytes that go over its end: outputs made before it and read behind it."""
    where = {layer: stage for stage, layers in enumerate(on) for layer in layers}
    return [
        sum(
            layer.output
            for i, layer in enumerate(model.layers)
            if where[i] <= s and any(a == i and where[b] > s for a, b in model.all_edges)
        )
        for s in range(len(on) - 1)
    ]


def always_on(model: Model, on: Stages, placement: list[int], rank: int) -> int:
    """Return what a rank holds at all times: its layers' own bytes, and each tied weight that one of them has, once."""
    here = {i for layers, home in zip(on, placement, strict=True) if home == rank for i in layers}
    total = 0
    for i in here:
        total += model.layers[i].parameters + model.layers[i].state
        total -= sum(weight.parameters + weight.state for weight in model.tied_weights if i in weight.layers)
    return total + sum(w.parameters + w.state for w in model.tied_weights if not here.isdisjoint(w.layers))


def bytes_of(model: Model, layers: list[int]) -> tuple[int, int]:
    """Return what a stage holds of a micro-batch in flight, and of it what waits for W."""
    waits = sum(model.layers[i].weight_stash for i in layers)
    flight = 0
    for i in layers:
        fed_by = [a for a, b in model.all_edges if b == i]
        inside = bool(fed_by) and all(a in layers for a in fed_by)
        flight += model.layers[i].activation - (model.layers[i].entry if inside else 0)
    return max(flight, waits), waits


def held(model: Model, on: Stages, placement: list[int], order: str) -> list[int]:
    """Return by rank the most bytes that it holds under an order of steps."""
    sizes = [bytes_of(model, layers) for layers in on]
    peaks = [
        max((sum(flights * sizes[s][0] + waits * sizes[s][1] for s, flights, waits in now) for now in row), default=0)
        for row in _counts(order)
    ]
    return [peak + always_on(model, on, placement, rank) for rank, peak in enumerate(peaks)]


@lru_cache(maxsize=64)
def _counts(order: str) -> list[set[tuple[tuple[int, int, int], ...]]]:
    """Return by rank what is held while each step runs: of each stage micro-batches in flight, and waiting for W."""
    found = []
    for row in order.splitlines():
        flights: dict[int, int] = {}
        waits: dict[int, int] = {}
        seen = set()
        for step in [] if row.strip() == "-" else row.split():
            name = step.rstrip("0123456789")
            stage, kind = int(name[:-1]), name[-1]
            flights[stage] = flights.get(stage, 0) + (kind == "F")
            seen.add(tuple((s, count, waits.get(s, 0)) for s, count in sorted(flights.items())))
            flights[stage] -= kind in "BI"
            waits[stage] = waits.get(stage, 0) + {"I": 1, "W": -1}.get(kind, 0)
        found.append(seen)
    return found


def problem_of(model: Model, on: Stages, placement: list[int], ranks: int, microbatches: int) -> sv.Problem:
    """Return the problem of a partition, on ranks whose memory has no limit."""
    devices = model.devices
    slow = [devices.slowness[rank if len(devices.slowness) > 1 else 0] for rank in placement]
    split = all(x.backward_input is not None and x.backward_weight is not None for x in model.layers)
    names = ["forward", "backward", *(["backward_input", "backward_weight"] if split else [])]
    costs = {
        name: [factor * sum(getattr(model.layers[i], name) for i in layers)
               for factor, layers in zip(slow, on, strict=True)]
        for name in names
    }  # fmt: skip
    sizes = [bytes_of(model, layers) for layers in on]
    static = [always_on(model, on, placement, rank) for rank in range(ranks)]
    links: dict[str, object] = {"latency": devices.latency, "bytes": [*sent(model, on), 0]}
    if devices.bandwidth is not None:
        links["bandwidth"] = devices.bandwidth
    data = {
        "ranks": ranks, "microbatches": microbatches, "stages": len(on), "placement": placement,
        "form": "split" if split else "fused", "costs": costs, "links": links,
        "memory": {"activation": [s[0] for s in sizes], "weight_stash": [s[1] for s in sizes], "static": static},
    }  # fmt: skip
    return sv.Problem.of(data)


def best(model: Model, ranks: int, virtual: int, microbatches: int, family: str) -> tuple[Judged | None, int | None]:
    """Return the best partition that fits, if one does; else the least bytes that every rank lacks, if there is any."""
    placement = placement_of(ranks, virtual, family)
    found: Judged | None = None
    lacks: int | None = None
    for on in every(model, len(placement)):
        one = judged(model, on, placement, ranks, microbatches, family)
        lacks = one.lacks if lacks is None else min(lacks, one.lacks)
        if not one.lacks and (found is None or one.order < found.order):
            found = one
    return found, lacks
