"""From a model to a problem: the partition that suits a family of schedules, and the costs of its stages."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

from schedverify.core.argument_types import check_types
from schedverify.core.model import Model, PartitionConstraints, even_parts
from schedverify.core.problem import Problem
from schedverify.core.timeline import Timeline
from schedverify.generators import family as family_of
from schedverify.optimizer.effort import Effort
from schedverify.partitioner import account
from schedverify.partitioner.account import Layers, lacking, usage_of
from schedverify.partitioner.bottleneck import Partition, least_bottleneck
from schedverify.partitioner.by_costs import least_by_costs
from schedverify.partitioner.moves import improved
from schedverify.partitioner.sums import check_sums, check_work
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
    def layers(self) -> Layers:
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
    stop: threading.Event | None = None,
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
        Seconds of the search, and threads of the solver, which is called with several stages a rank.
    stop
        Set it to end the search early; the best so far is kept.

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
    effort = Effort(time_limit, workers=workers, stop=stop or threading.Event())
    check_sums(model, shape.stages, microbatches)
    check_work(model, shape.stages, microbatches)
    if chosen.room and model.devices.memory:
        found = least_by_costs(
            model, shape.owner_rank, ranks,
            lambda layers: list(_timeline(model, layers, shape, chosen.name).peak_memory),
            most=chosen.most_in_flight(shape), effort=effort,
        )  # fmt: skip
    else:
        moments = account.moments_of(chosen.generate(shape), shape.stages_of)
        found = least_bottleneck(model, shape.owner_rank, moments, effort=effort)
    made = Cut(model, found, stage_problem(model, found.layers, shape), chosen.name)
    return _improved(made, effort) if model.chain and model.constraints == PartitionConstraints() else made


def _timeline(model: Model, layers: Layers, shape: Problem, family: str) -> Timeline:
    """Return when everything runs under the family's schedule, of a model cut in a given way, without limits."""
    problem = stage_problem(without_capacity(model), layers, shape)
    return simulate(family_of(family).generate(problem), problem)


def _improved(found: Cut, effort: Effort) -> Cut:
    """Return a cut with a shorter makespan, where moving single layers leads to one and costs nothing that counts more.

    Many partitions can have one bottleneck and as many bytes between ranks, and their makespans differ.
    """
    model, placement, memory = found.model, found.problem.owner_rank, found.model.devices.memory
    usage = usage_of(model, found.layers, placement)

    def makespan(layers: Layers) -> int | None:
        if usage_of(model, layers, placement) > usage:
            return None
        timeline = _timeline(model, layers, found.problem, found.family)
        return None if lacking(list(timeline.peak_memory), memory) else timeline.makespan

    layers = improved(found.layers, even_split(model, found.problem.stages), makespan, effort.is_over)
    bottleneck, _, crossing = usage_of(model, layers, placement)
    partition = found.partition._replace(layers=layers, bottleneck=bottleneck, crossing=crossing)
    return Cut(model, partition, stage_problem(model, layers, found.problem), found.family)


def stage_problem(model: Model, layers: Layers, shape: Problem) -> Problem:
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
    memory: dict[str, Any] = {
        "activation": account.activations(model, layers),
        "weight_stash": account.stashes(model, layers),
        "static": account.residents(model, layers, shape.owner_rank, shape.ranks),
    }
    if model.unit:
        memory["unit"] = model.unit
    if devices.memory:
        memory["capacity"] = [devices.memory[rank % len(devices.memory)] for rank in range(shape.ranks)]
    links: dict[str, Any] = {"latency": devices.latency, "bytes": account.boundary_bytes(model, layers)}
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


def _tied(model: Model, layers: Layers) -> Iterator[list[int]]:
    """Yield the groups of stages that share weights across a cut."""
    for group in model.tied:
        stages = [stage for stage, members in enumerate(layers) if not set(group).isdisjoint(members)]
        if len(stages) > 1:
            yield stages


def even_split(model: Model, stages: int) -> Layers:
    """Return the partition with equally many layers a stage, the first ones taking one more where it does not divide.

    Raises
    ------
    InputError
        If there are more stages than layers.
    """
    return tuple(map(tuple, even_parts(len(model.layers), stages)))
