"""What a set-up costs: the makespan of its pipeline, the reduction of its gradients, the bytes on the fullest rank."""

from __future__ import annotations

from bisect import insort
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Final, NamedTuple

from schedverify.core.errors import InputError
from schedverify.core.model import Model
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Timeline
from schedverify.costmodel.decoder import Decoder, Training, decoder_model
from schedverify.costmodel.decoder.device import Link
from schedverify.costmodel.decoder.layer_costs import model_flops
from schedverify.costmodel.parallelism.setups import Cluster, Rejected, SetUp, setups_of
from schedverify.generators import family
from schedverify.partitioner import least_bottleneck
from schedverify.partitioner.stage_problem import even_split, stage_problem
from schedverify.simulator.engine import simulate

TICK: Final = Fraction(1, 1_000_000)
"""Seconds of a tick: everything is in microseconds."""
Ints = tuple[int, ...]


class Priced(NamedTuple):
    """A set-up that fits, and what it costs. Times are microseconds, memory is bytes of one device."""

    setup: SetUp
    step: int
    """The whole: pipeline and reduction one after another."""
    reducing: int
    """Of it, the reduction of gradients between the copies."""
    bubble: Fraction
    """Of the pipeline's time, the part in which ranks wait."""
    sharing: Fraction
    """Of the ranks' work, the part that the all-reduces inside layers take."""
    peak: int
    """Of the fullest rank."""
    layers: tuple[Ints, ...]
    """By stage, the positions of its layers."""
    problem: Problem


class Pricing:
    """Prices the set-ups of one model on one cluster."""

    def __init__(self, shape: Decoder, training: Training, cluster: Cluster, name: str = "") -> None:
        self.shape, self.training, self.cluster, self.name = shape, training, cluster, name
        self._made = lru_cache(maxsize=None)(self._make)
        self._scheduled = lru_cache(maxsize=64)(_schedule)

    def model(self, setup: SetUp) -> Model:
        """Return the layers of a set-up, with the links that its place in the cluster gives it.

        Raises
        ------
        InputError
            If nothing is left of the devices' memory.
        """
        tensor, pipeline, _ = self._links(setup)
        return self._made(setup.training(self.training), tensor, pipeline)

    def least(self, setup: SetUp) -> int:
        """Return a bound that no partition and no order of the family is below, in ticks.

        With one stage a rank and loads ``w``, no rank ``t`` is done before ``w_0 + ... + w_(t-1) + M w_t``, and the
        least that all these can be at once is ``W / (1 - (1 - 1/M)^P)``. With several, the busiest rank has at least
        ``W / P`` for each micro-batch, and a single one takes ``W``.
        """
        model, ranks, count = self.model(setup), setup.pipeline_parallel, setup.microbatches
        work = sum(layer.work for layer in model.layers)
        if setup.virtual == 1:
            passing = -(-work // (1 - (1 - Fraction(1, count)) ** ranks))
        else:
            passing = max(-(-count * work // ranks), work)
        held = sum(layer.parameters for layer in model.layers) // self.training.number
        return passing + self._reducing(setup, held // ranks)

    def hopeless(self, setup: SetUp) -> Rejected | None:
        """Return by how much a device lacks memory where weights, gradients and optimizer alone do not fit."""
        model = self.model(setup)
        held = -(-sum(layer.resident for layer in model.layers) // setup.pipeline_parallel)
        room = model.devices.memory[0] if model.devices.memory else held
        return _too_large(setup, held, room, "weights and optimizer alone take") if held > room else None

    def price(self, setup: SetUp) -> Priced | Rejected:
        """Return what a set-up costs, or by how much it does not fit."""
        model = self.model(setup)
        shape, schedule = self._scheduled(setup.pipeline_parallel, setup.microbatches, setup.virtual)
        room = model.devices.memory[0] if model.devices.memory else None
        ways = [self._timed(model, layers, shape, schedule) for layers in _partitions(model, shape, schedule)]
        fitting = [way for way in ways if room is None or max(way[0].peak_memory) <= room]
        if not fitting:
            peak = min(max(timeline.peak_memory) for timeline, _ in ways)
            return _too_large(setup, peak, room or 0, "the fullest rank holds")
        timeline, layers = min(fitting, key=lambda way: way[0].makespan)
        return self._priced(setup, timeline, layers, stage_problem(model, layers, shape))

    def _priced(self, setup: SetUp, timeline: Timeline, layers: tuple[Ints, ...], problem: Problem) -> Priced:
        model = self.model(setup)
        held = max(sum(model.layers[i].parameters for s in stages for i in layers[s]) for stages in problem.stages_of)
        reducing = self._reducing(setup, held // self.training.number)
        alone = self._made(setup.training(self.training), Link(), Link())
        work, without = (sum(layer.work for layer in made.layers) for made in (model, alone))
        bubble = timeline.measures.bubble_fraction
        step = timeline.makespan + reducing
        return Priced(
            setup, step, reducing, bubble, 1 - Fraction(without, work), max(timeline.peak_memory), layers, problem
        )

    def utilization(self, priced: Priced) -> Fraction:
        """Return which part of all devices' peak the model's own FLOPs are, recomputation left out.

        Source: Chowdhery et al. 2022 (PaLM), arXiv 2204.02311, section 4.1 (model FLOPs utilization).
        """
        plain = replace(self.training, recompute="none", microbatch_size=1)
        flops = model_flops(self.shape, plain) * self.cluster.batch
        return flops / (priced.step * TICK * self.cluster.size * self.cluster.device.peak)

    def _make(self, training: Training, tensor: Link, pipeline: Link) -> Model:
        device = replace(self.cluster.device, inside=tensor, between=pipeline)
        return decoder_model(self.shape, training, device, name=self.name, tick=TICK)

    def _timed(
        self, model: Model, layers: tuple[Ints, ...], shape: Problem, schedule: Schedule
    ) -> tuple[Timeline, tuple[Ints, ...]]:
        free = replace(model, devices=replace(model.devices, memory=()))
        return simulate(schedule, stage_problem(free, layers, shape)), layers

    def _links(self, setup: SetUp) -> tuple[Link, Link, Link]:
        """Return the slowest link between the devices of a layer, the stages of a pipeline, and the copies.

        Devices stand in a row, those of a layer next to each other, then as ``inner`` says.
        """
        device, whole = self.cluster.device, self.cluster.size
        shared = setup.tensor_parallel
        copies = shared * setup.data_parallel if setup.inner == "data" else whole
        pipeline = whole if setup.inner == "data" else shared * setup.pipeline_parallel
        spans = (shared, pipeline, copies)
        tensor, stages, data = (device.inside if self.cluster.inside(span) else device.between for span in spans)
        return tensor, stages, data

    def _reducing(self, setup: SetUp, parameters: int) -> int:
        """Return the ticks in which the copies of a device reduce its gradients, and hand out weights where they must.

        Source: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), section 7 (reduce-scatter, then all-gather).
        """
        link, copies = self._links(setup)[2], setup.data_parallel
        gradients = link.ring(parameters * self.training.gradient_bytes, copies)
        if not self.training.distributed_optimizer:
            return -(-gradients // TICK)
        return -(-(gradients + link.ring(parameters * self.training.number, copies)) // (2 * TICK))


def _schedule(ranks: int, microbatches: int, virtual: int) -> tuple[Problem, Schedule]:
    """Return the shape of a pipeline, and the order that its ranks run in: 1F1B, interleaved with several stages."""
    chosen = family("1f1b" if virtual == 1 else "interleaved-1f1b")
    shape = chosen.problem(ranks, microbatches, virtual)
    return shape, chosen.generate(shape)


def _partitions(model: Model, shape: Problem, schedule: Schedule) -> list[tuple[Ints, ...]]:
    """Return the partitions that are timed: as many layers on each stage, and the one with the least bottleneck.

    With one stage a rank that is the least within the memory, if any is; with several, the least of the largest stage.
    """
    ways, stages = [even_split(model, shape.stages)], shape.stages
    free = replace(model, devices=replace(model.devices, memory=()))
    if stages == shape.ranks:
        peaks = simulate(schedule, shape).peak_in_flight
        states = tuple(((peak,),) for peak in peaks)
    else:
        model, states = free, tuple(((1,),) for _ in range(stages))
    try:
        ways.append(least_bottleneck(model, tuple(range(stages)), states).layers)
    except InputError:  # nothing fits; told is by how much the best without a limit does not
        ways.append(least_bottleneck(free, tuple(range(stages)), states).layers)
    return list(dict.fromkeys(ways))


def _too_large(setup: SetUp, held: int, room: int, what: str) -> Rejected:
    missing = held - room
    message = f"does not fit: {what} {held / 1e9:.1f} GB of {room / 1e9:.1f}, {missing / 1e9:.1f} GB too much"
    return Rejected(dict(setup._asdict()), message, missing)


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
