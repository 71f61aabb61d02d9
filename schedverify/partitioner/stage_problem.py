"""From a model to a problem: the partition that suits a family of schedules, and the costs of its stages."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from itertools import chain, pairwise
from typing import Any, NamedTuple

from schedverify.core.argument_types import check_types
from schedverify.core.errors import InputError
from schedverify.core.model import Model, PartitionConstraints, even_parts
from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Timeline
from schedverify.generators import family as family_of
from schedverify.partitioner import Partition, least_bottleneck
from schedverify.partitioner.cuts import Ints
from schedverify.simulator.engine import simulate


class Cut(NamedTuple):
    """A model cut into stages: the partition, the problem that its stages make, and the family of schedules."""

    model: Model
    partition: Partition
    problem: Problem
    family: str

    def timeline(self) -> Timeline:
        """Return when everything runs under the family's schedule, without limits."""
        return simulate(family_of(self.family).generate(self.problem), self.problem)

    @property
    def layers(self) -> tuple[Ints, ...]:
        """By stage, the positions of its layers."""
        return self.partition.layers

    @property
    def names(self) -> list[list[str]]:
        """By stage, the names of its layers: what a plan holds as ``partition``."""
        return [list(layers) for layers in self.problem.partition]


def cut(
    model: Model,
    *,
    ranks: int,
    microbatches: int,
    virtual: int = 1,
    family: str | None = None,
    time_limit: float = 20,
    workers: int = 2,
) -> Cut:
    """Cut a model into the stages of a pipeline, with the least load of the busiest rank or link.

    Parameters
    ----------
    ranks, virtual
        Devices of the pipeline, and stages on each.
    microbatches
        Micro-batches of a step.
    family
        The schedule whose placement and peak in flight count for memory: ``1f1b``, with several stages a rank
        ``interleaved-1f1b``, where nothing else is said.
    time_limit, workers
        Seconds and threads of the solver; it is called with several stages a rank.

    Raises
    ------
    InputError
        If the numbers of ranks, stages and layers do not go together.
    InfeasibleError
        If no partition fits memory and constraints; says which constraint, or how much memory is lacking where.
    UndecidedError
        If the solver found no partition in the time, nor a proof that there is none.
    UnknownNameError
        If there is no such family.
    """
    check_types("cut", model=(model, Model))
    chosen = family_of(family or ("1f1b" if virtual == 1 else "interleaved-1f1b"))
    shape = chosen.problem(ranks, microbatches, virtual)
    schedule = chosen.generate(shape)
    states = tuple(tuple(_fullest_states(schedule, rank, shape.stages_of[rank])) for rank in range(ranks))
    found = least_bottleneck(model, shape.owner_rank, states, ranks=ranks, time_limit=time_limit, workers=workers)
    made = Cut(model, found, stage_problem(model, found.layers, shape), chosen.name)
    return _improved(made) if model.chain and model.constraints == PartitionConstraints() else made


def _improved(found: Cut) -> Cut:
    """Move single layers over cuts as long as that shortens the family's makespan and costs nothing that counts more.

    Many partitions can have one bottleneck and as many bytes over their cuts, and their makespans differ. Where as many
    layers on each stage is one of them, it may be the one to begin with.
    """
    best, makespan = found, found.timeline().makespan
    moves: Iterator[tuple[Ints, ...]] = iter([even_split(found.model, found.problem.stages)])
    improved = True
    while improved:
        improved = False
        for layers in chain(moves, _moves(best.partition.layers)):
            if shorter := _shorter(found, layers, makespan):
                best, makespan, improved = *shorter, True
    return best


def _shorter(found: Cut, layers: tuple[Ints, ...], makespan: int) -> tuple[Cut, int] | None:
    """Return another partition with its makespan in ticks, where that is less and nothing that counts more is worse.

    Bottleneck, bytes over the cuts and memory count more.
    """
    try:
        problem = stage_problem(found.model, layers, found.problem)
    except InputError:  # a rank has no memory for a single micro-batch
        return None
    loads = [sum(problem.forward[s] + problem.backward[s] for s in stages) for stages in problem.stages_of]
    if max(loads) > found.partition.bottleneck or sum(problem.boundary_bytes) > sum(found.problem.boundary_bytes):
        return None
    other = Cut(found.model, found.partition._replace(layers=layers), problem, found.family)
    timeline = other.timeline()
    fits = problem.capacity is None or all(map(int.__le__, timeline.peak_memory, problem.capacity))
    return (other, timeline.makespan) if fits and timeline.makespan < makespan else None


def _moves(layers: tuple[Ints, ...]) -> Iterator[tuple[Ints, ...]]:
    """Yield the partitions in which one layer goes to the stage beside its own."""
    for stage, (own, beside) in enumerate(pairwise(layers)):
        if len(own) > 1:
            yield (*layers[:stage], own[:-1], (own[-1], *beside), *layers[stage + 2 :])
        if len(beside) > 1:
            yield (*layers[:stage], (*own, beside[0]), beside[1:], *layers[stage + 2 :])


def stage_problem(model: Model, layers: tuple[Ints, ...], shape: Problem) -> Problem:
    """Return the problem of a model cut into stages.

    Parameters
    ----------
    layers
        By stage, the positions of its layers. Stages form a chain: what a later stage reads of an earlier one goes
        through those between them.
    shape
        A problem with the ranks, placement and micro-batches; its costs are not looked at.

    Raises
    ------
    InputError
        If the layers do not fit the devices' memory.
    """
    devices, on = model.devices, [[model.layers[i] for i in stage] for stage in layers]
    slow = [devices.slowness[rank % len(devices.slowness)] for rank in shape.owner_rank]
    passes = ["forward", "backward"] + ["backward_input", "backward_weight"] * model.split
    costs = {
        name: [factor * sum(getattr(layer, name) for layer in stage) for factor, stage in zip(slow, on, strict=True)]
        for name in passes
    }
    memory = {
        "activation": _activations(model, layers),
        "weight_stash": [sum(x.weight_stash for x in stage) for stage in on],
        "static": [sum(x.resident for s in shape.stages_of[rank] for x in on[s]) for rank in range(shape.ranks)],
    }
    if devices.memory:
        memory["capacity"] = [devices.memory[rank % len(devices.memory)] for rank in range(shape.ranks)]
    links: dict[str, Any] = {"latency": devices.latency, "bytes": _boundary_bytes(model, layers)}
    if devices.bandwidth is not None:
        links["bandwidth"] = devices.bandwidth
    data = {"name": model.name, "ranks": shape.ranks, "microbatches": shape.microbatches, "stages": shape.stages,
            "placement": list(shape.owner_rank), "form": "split" if model.split else "fused", "tick": model.tick,
            "tied": list(_tied(model, layers)), "partition": [[layer.name for layer in stage] for stage in on],
            "costs": costs, "links": links, "memory": memory}  # fmt: skip
    return Problem.of(data)


def evenly(model: Model, like: Cut) -> Problem:
    """Return the problem of the same model, ranks and placement with equally many layers a stage, without capacity."""
    return stage_problem(without_capacity(model), even_split(model, like.problem.stages), like.problem)


def without_capacity(model: Model) -> Model:
    """Return the model on devices whose memory has no limit."""
    return replace(model, devices=replace(model.devices, memory=()))


def _fullest_states(schedule: Schedule, rank: int, stages: Ints) -> Iterator[Ints]:
    """Yield the micro-batches in flight on a rank, by stage, at the moments when most are.

    A moment is left out where another is at least as full in every stage. Of a rank that runs ``F0 F1 f0 B0 f1 B1``,
    with F and B of its first stage and f of its second, which has no backward::

        after      F0     F1     f0     B0     f1     B1
        in flight  (1,0)  (2,0)  (2,1)  (1,1)  (1,2)  (0,2)        (2,1) and (1,2) are yielded
    """
    in_flight, seen = dict.fromkeys(stages, 0), set()
    for step in schedule.steps(rank):
        for op in step.ops:
            in_flight[op.stage] += {Kind.F: 1, Kind.B: -1, Kind.I: -1}.get(op.kind, 0)
            seen.add(tuple(in_flight.values()))
    for state in sorted(seen):
        if not any(other != state and all(map(int.__ge__, other, state)) for other in seen):
            yield state


def _boundary_bytes(model: Model, layers: tuple[Ints, ...]) -> list[int]:
    """Return by stage the bytes that go on to the next one: each output that a later stage reads, once.

    The edges are sorted by the stage of their target, so that the dict keeps the last stage that reads each output.
    """
    stage_of = {layer: stage for stage, members in enumerate(layers) for layer in members}
    last = {source: stage_of[target] for source, target in sorted(model.all_edges, key=lambda edge: stage_of[edge[1]])}
    sent = [0] * len(layers)
    for source, target in last.items():
        for stage in range(stage_of[source], target):
            sent[stage] += model.layers[source].output
    return sent


def _activations(model: Model, layers: tuple[Ints, ...]) -> list[int]:
    """Return by stage the bytes that a micro-batch in flight holds.

    A layer's entry (its input, as a part of its activation) counts only where it comes from another stage: inside a
    stage it is the output that the layer before holds already. What waits for W is a part of the activation, so that
    it is no less than that.
    """
    sources = {layer: set[int]() for layer in range(len(model.layers))}
    for source, target in model.all_edges:
        sources[target].add(source)
    activations = []
    for stage in layers:
        inside = sum(model.layers[i].entry for i in stage if sources[i] and sources[i] <= set(stage))
        stash = sum(model.layers[i].weight_stash for i in stage)
        activations.append(max(sum(model.layers[i].activation for i in stage) - inside, stash))
    return activations


def _tied(model: Model, layers: tuple[Ints, ...]) -> Iterator[list[int]]:
    """Yield the groups of stages that share weights across a cut."""
    for group in model.tied:
        stages = [stage for stage, members in enumerate(layers) if not set(group).isdisjoint(members)]
        if len(stages) > 1:
            yield stages


def even_split(model: Model, stages: int) -> tuple[Ints, ...]:
    """Return the partition with equally many layers a stage, the first ones taking one more where it does not divide.

    Raises
    ------
    InputError
        If there are more stages than layers.
    """
    return tuple(map(tuple, even_parts(len(model.layers), stages)))
