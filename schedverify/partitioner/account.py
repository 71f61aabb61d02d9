"""What a partition comes to: ticks of the busiest rank or link, bytes between ranks, and bytes that ranks hold.

This is the one account of whole partitions. Searches over many of them keep the same sums in their own tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from schedverify.core.model import Model
from schedverify.core.op import Kind
from schedverify.core.schedule import Schedule

Ints = tuple[int, ...]
Layers = tuple[Ints, ...]
"""By stage, the positions of its layers."""


class Usage(NamedTuple):
    """What counts of a partition, in the order in which it counts.

    Attributes
    ----------
    bottleneck
        Ticks that the busiest rank or link takes for one micro-batch; of a rank, forward and whole backward; of a
        link, all that goes through its queue.
    largest
        Ticks of the largest stage, where a rank has several; else 0.
    crossing
        Bytes that go from rank to rank in one micro-batch's forward.
    """

    bottleneck: int
    largest: int
    crossing: int


class Moment(NamedTuple):
    """What a rank holds at one moment, by its stages in rising order.

    Attributes
    ----------
    in_flight
        Micro-batches from F to the end of B or I.
    waiting
        Micro-batches from the end of I to the end of W.
    """

    in_flight: Ints
    waiting: Ints


Moments = tuple[tuple[Moment, ...], ...]
"""By rank, the moments of which one is the fullest, whatever the stages hold for a micro-batch."""


def usage_of(model: Model, layers: Layers, placement: Ints) -> Usage:
    """Return what counts of a partition, its stages on the ranks of a placement."""
    devices, ticks = model.devices, [layer.work for layer in model.layers]
    work = [
        devices.slowness[rank % len(devices.slowness)] * sum([ticks[i] for i in stage])
        for stage, rank in zip(layers, placement, strict=True)
    ]
    loads = dict.fromkeys(placement, 0)
    for rank, own in zip(placement, work, strict=True):
        loads[rank] += own
    sent, queues = boundary_bytes(model, layers), queues_of(placement)
    busy = [sum(link_ticks(sent[stage], devices.bandwidth) for stage in stages) for stages in queues.values()]
    several = len(loads) < len(placement)
    crossing = sum(sent[stage] for stages in queues.values() for stage in stages)
    return Usage(max([*loads.values(), *busy]), max(work) if several else 0, crossing)


def queues_of(placement: Ints) -> dict[tuple[int, int], list[int]]:
    """Return by pair of ranks the stages whose boundary to the next one goes through the pair's queue.

    Both directions share it, as in the discipline ``pair``; between stages of one rank there is no link::

        placement 0 1 0 1      one queue for the boundaries of stages 0, 1 and 2
        placement 0 1 1 0      one for those of stages 0 and 2
    """
    queues: dict[tuple[int, int], list[int]] = {}
    for stage, (rank, following) in enumerate(pairwise(placement)):
        if rank != following:
            queues.setdefault((min(rank, following), max(rank, following)), []).append(stage)
    return queues


def link_ticks(size: int, bandwidth: int | None) -> int:
    """Return the ticks in which a tensor and, later, its gradient go through a queue."""
    return 0 if bandwidth is None else 2 * -(-size // bandwidth)


def boundary_bytes(model: Model, layers: Layers) -> list[int]:
    """Return by stage the bytes that go on to the next one: each output that a later stage reads, once."""
    stage_of = {layer: stage for stage, members in enumerate(layers) for layer in members}
    last: dict[int, int] = {}
    for source, target in model.all_edges:
        last[source] = max(last.get(source, 0), stage_of[target])
    sent = [0] * len(layers)
    for source, behind in last.items():
        for stage in range(stage_of[source], behind):
            sent[stage] += model.layers[source].output
    return sent


def activations(model: Model, layers: Layers) -> list[int]:
    """Return by stage the bytes that a micro-batch in flight holds.

    A layer's entry (its input, as a part of its activation) counts only where it comes from another stage: inside a
    stage it is the output that the layer before holds already. What waits for W is a part of the activation, so that
    it is no less than that.
    """
    sources = {layer: set[int]() for layer in range(len(model.layers))}
    for source, target in model.all_edges:
        sources[target].add(source)
    found = []
    for stage, stash in zip(layers, stashes(model, layers), strict=True):
        members = set(stage)
        inside = sum(model.layers[i].entry for i in stage if sources[i] and sources[i] <= members)
        found.append(max(sum(model.layers[i].activation for i in stage) - inside, stash))
    return found


def stashes(model: Model, layers: Layers) -> list[int]:
    """Return by stage the bytes that wait for W, of one micro-batch."""
    return [sum(model.layers[i].weight_stash for i in stage) for stage in layers]


def residents(model: Model, layers: Layers, placement: Ints, ranks: int) -> list[int]:
    """Return by rank the bytes that it holds all the time; a weight that several of its layers have counts once."""
    held, members = [0] * ranks, [set[int]() for _ in range(ranks)]
    for stage, rank in zip(layers, placement, strict=True):
        held[rank] += sum(model.layers[i].resident for i in stage)
        members[rank].update(stage)
    for weight in model.tied_weights:
        for rank, own in enumerate(members):
            held[rank] -= weight.resident * max(len(own.intersection(weight.layers)) - 1, 0)
    return held


def peaks_of(model: Model, layers: Layers, placement: Ints, moments: Moments) -> list[int]:
    """Return by rank the most bytes that it holds."""
    active, stash = activations(model, layers), stashes(model, layers)
    held = residents(model, layers, placement, len(moments))
    for rank, own in enumerate(moments):
        stages = [stage for stage, owner in enumerate(placement) if owner == rank]
        held[rank] += max(
            (
                sum(count * active[stage] for count, stage in zip(moment.in_flight, stages, strict=True))
                + sum(count * stash[stage] for count, stage in zip(moment.waiting, stages, strict=True))
                for moment in own
            ),
            default=0,
        )
    return held


def lacking(peaks: list[int], memory: Ints) -> int:
    """Return the bytes that the rank which lacks most lacks; 0 where all fits.

    Parameters
    ----------
    peaks
        By rank, the most bytes that it holds.
    memory
        Bytes by rank, one value for all, or none for no limit.
    """
    return max([0, *(peak - memory[rank % len(memory)] for rank, peak in enumerate(peaks) if memory)])


def one_of_each(placement: Ints, ranks: int) -> Moments:
    """Return what no schedule can do without: on each rank one micro-batch in flight of each of its stages.

    So it is while the backward of the rank's last stage runs, since those before it wait for theirs.
    """
    counts = [placement.count(rank) for rank in range(ranks)]
    return tuple((Moment((1,) * count, (0,) * count),) for count in counts)


def moments_of(schedule: Schedule, stages_of: tuple[Ints, ...]) -> Moments:
    """Return by rank what a schedule holds at the moments when that is most.

    A moment is left out where another is at least as full in every stage. Of a rank that runs ``F0 F1 f0 B0 f1 B1``,
    with F and B of its first stage and f of its second, which has no backward::

        during     F0     F1     f0     B0     f1     B1
        in flight  (1,0)  (2,0)  (2,1)  (2,1)  (1,2)  (1,2)        (2,1) and (1,2) are kept

    Parameters
    ----------
    stages_of
        By rank, its stages in rising order.
    """
    return tuple(tuple(_fullest(schedule, rank, stages)) for rank, stages in enumerate(stages_of))


def _fullest(schedule: Schedule, rank: int, stages: Ints) -> Iterator[Moment]:
    in_flight, waiting = dict.fromkeys(stages, 0), dict.fromkeys(stages, 0)
    seen: set[Ints] = set()
    for step in schedule.steps(rank):
        for op in step.ops:
            in_flight[op.stage] += op.kind is Kind.F
        seen.add((*in_flight.values(), *waiting.values()))
        for op in step.ops:
            in_flight[op.stage] -= op.kind in (Kind.B, Kind.I)
            waiting[op.stage] += {Kind.I: 1, Kind.W: -1}.get(op.kind, 0)
    for held in sorted(seen):
        if not any(other != held and all(map(int.__ge__, other, held)) for other in seen):
            yield Moment(held[: len(stages)], held[len(stages) :])
