"""Which set-ups of a cluster are the fastest for a model: what each costs, and why others are not for it.

A set-up costs the makespan of its pipeline and the reduction of its gradients, in ticks, and the bytes on the fullest
rank. :func:`advise` is the way in.
"""

from __future__ import annotations

import threading
from bisect import insort
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache
from typing import Final, NamedTuple

from schedverify.core.errors import Fault, InfeasibleError, InputError
from schedverify.core.model import Model
from schedverify.core.problem import Problem
from schedverify.core.units import Units
from schedverify.costmodel.decoder import DECODER_UNIT, Decoder, Training, decoder_model
from schedverify.costmodel.decoder.device import Link
from schedverify.costmodel.decoder.layer_costs import model_flops
from schedverify.costmodel.parallelism.choice import Choice, Pipeline, best_cut
from schedverify.costmodel.parallelism.setups import Cluster, Ints, Rejected, SetUp, setups_of, why_none
from schedverify.generators import family
from schedverify.partitioner.account import Layers, moments_of
from schedverify.partitioner.stage_problem import stage_problem
from schedverify.partitioner.sums import check_sums

TICK: Final = Fraction(1, 1_000_000)
"""Seconds of a tick: everything is in microseconds."""


class Priced(NamedTuple):
    """A set-up that fits, and what it costs. Times are microseconds, memory is bytes of one device.

    Attributes
    ----------
    setup
        What is priced.
    step
        Microseconds of a whole step: pipeline and reduction one after another.
    reducing
        Microseconds of it in which the copies reduce their gradients.
    bubble
        The part of the pipeline's time in which ranks wait.
    sharing
        The part of the ranks' work that the all-reduces inside layers take.
    peak
        The most bytes that a device of the fullest rank holds.
    layers
        By stage, the positions of its layers.
    problem
        The problem that the stages make.
    """

    setup: SetUp
    step: int
    reducing: int
    bubble: Fraction
    sharing: Fraction
    peak: int
    layers: tuple[Ints, ...]
    problem: Problem


class Pricing:
    """Prices the set-ups of one model on one cluster."""

    def __init__(self, shape: Decoder, training: Training, cluster: Cluster, name: str = "") -> None:
        self.shape, self.training, self.cluster, self.name = shape, training, cluster, name
        self._model = lru_cache(maxsize=None)(self._make_model)
        self._pipeline = lru_cache(maxsize=64)(_pipeline)

    def model(self, setup: SetUp) -> Model:
        """Return the layers of a set-up, with the links that its place in the cluster gives it.

        Raises
        ------
        InfeasibleError
            If nothing is left of the devices' memory.
        UnsupportedError
            If its ticks or bytes are too many to count.
        """
        tensor, pipeline, _ = self._links(setup)
        model = self._model(setup.training(self.training), tensor, pipeline)
        check_sums(model, setup.pipeline_parallel * setup.virtual, setup.microbatches, key="decoder")
        return model

    def least(self, setup: SetUp) -> int:
        """Return ticks that no step of the set-up can go below, whatever the partition and the order.

        With one stage a rank, loads ``w_t`` that sum up to ``W``, ``P`` ranks and ``M`` micro-batches, no rank ``t`` is
        done before ``w_0 + ... + w_(t-1) + M w_t``. The greatest of these is least where all are equal; each load is
        then ``1 - 1/M`` of the one before, and all come to ``W / (1 - (1 - 1/M)^P)``. With several stages a rank the
        busiest rank has at least ``W / P`` for each micro-batch, and a single micro-batch takes ``W``.
        """
        model, ranks, count = self.model(setup), setup.pipeline_parallel, setup.microbatches
        work = sum(layer.work for layer in model.layers)
        if setup.virtual == 1:
            pipeline = -(-work // (1 - (1 - Fraction(1, count)) ** ranks))
        else:
            pipeline = max(-(-count * work // ranks), work)
        parameters = sum(layer.parameters for layer in model.layers) - _held_once(setup, model, "parameters")
        parameters //= self.training.number_bytes
        return pipeline + self._reducing(setup, parameters // ranks)

    def hopeless(self, setup: SetUp) -> Rejected | None:
        """Return by how much a device lacks memory where weights, gradients and optimizer alone do not fit."""
        model = self.model(setup)
        resident = sum(layer.resident for layer in model.layers) - _held_once(setup, model, "resident")
        resident = -(-resident // setup.pipeline_parallel)
        room = model.devices.memory[0] if model.devices.memory else resident
        return _too_large(setup, resident, room, "weights and optimizer alone take") if resident > room else None

    def price(self, setup: SetUp) -> Priced | Rejected:
        """Return what a set-up costs, or by how much it does not fit."""
        model = self.model(setup)
        pipeline = self._pipeline(setup.pipeline_parallel, setup.microbatches, setup.virtual)

        def behind(layers: Layers) -> int:
            parameters = [sum(model.layers[i].parameters for i in stage) for stage in layers]
            largest = max(sum(parameters[stage] for stage in stages) for stages in pipeline.shape.stages_of)
            largest -= _held_once(setup, model, "parameters")
            return self._reducing(setup, largest // self.training.number_bytes)

        if (chosen := best_cut(model, pipeline, behind)) is not None:
            return self._priced(setup, pipeline, chosen)
        peak = max(pipeline.peaks(model, pipeline.counts(model).nearest()))
        return _too_large(setup, peak, model.devices.memory[0], "the fullest rank holds")

    def _priced(self, setup: SetUp, pipeline: Pipeline, chosen: Choice) -> Priced:
        model, timeline = self.model(setup), chosen.timeline
        without_links = self._model(setup.training(self.training), Link(), Link())
        work, computing = (sum(layer.work for layer in each.layers) for each in (model, without_links))
        bubble, sharing = timeline.bubble_fraction, 1 - Fraction(computing, work)
        reducing, peak = chosen.step - timeline.makespan, max(timeline.peak_memory)
        problem = stage_problem(model, chosen.layers, pipeline.shape)
        return Priced(setup, chosen.step, reducing, bubble, sharing, peak, chosen.layers, problem)

    def utilization(self, priced: Priced) -> Fraction:
        """Return which part of all devices' peak the model's own FLOPs are, recomputation left out.

        Source: Chowdhery et al. 2022 (PaLM), arXiv 2204.02311, section 4.1 (model FLOPs utilization).
        """
        plain = replace(self.training, recompute="none", microbatch_size=1)
        flops = model_flops(self.shape, plain) * self.cluster.batch
        return flops / (priced.step * TICK * self.cluster.size * self.cluster.device.peak)

    def _make_model(self, training: Training, tensor: Link, pipeline: Link) -> Model:
        device = replace(self.cluster.device, inside=tensor, between=pipeline)
        return decoder_model(self.shape, training, device, name=self.name, tick=TICK)

    def _links(self, setup: SetUp) -> tuple[Link, Link, Link]:
        """Return the slowest link between the devices of a layer, the stages of a pipeline, and the copies.

        Devices stand in a row, those of a layer next to each other, then as ``inner`` says. A group's span is the
        devices from its first to its last, rounded up to where the row repeats; with 2 devices a layer, 2 stages and 2
        copies, of layer group ``a`` to ``d``::

            device            0 1 2 3 4 5 6 7        span of a layer, a pipeline, the copies
            inner = data      a a b b c c d d        2, 8, 4    a and b are copies, a and c a pipeline
            inner = pipeline  a a b b c c d d        2, 4, 8    a and b are a pipeline, a and c copies
        """
        device, whole = self.cluster.device, self.cluster.size
        tensor_span = setup.tensor_parallel
        data_span = tensor_span * setup.data_parallel if setup.inner == "data" else whole
        pipeline_span = whole if setup.inner == "data" else tensor_span * setup.pipeline_parallel
        spans = (tensor_span, pipeline_span, data_span)
        tensor, stages, data = (device.inside if self.cluster.inside(span) else device.between for span in spans)
        return tensor, stages, data

    def _reducing(self, setup: SetUp, parameters: int) -> int:
        """Return the ticks in which the copies of a device reduce the gradients of so many parameters in a ring.

        With a distributed optimizer they hand out the new weights afterwards; each of the two is half a ring's
        all-reduce, of the gradients' bytes and of the weights'.

        Source: Rajbhandari et al. 2020 (ZeRO, arXiv 1910.02054), section 7 (reduce-scatter, then all-gather).
        """
        link, copies = self._links(setup)[2], setup.data_parallel
        gradients = link.ring(parameters * self.training.gradient_bytes, copies)
        if not self.training.distributed_optimizer:
            return -(-gradients // TICK)
        return -(-(gradients + link.ring(parameters * self.training.number_bytes, copies)) // (2 * TICK))


def _pipeline(ranks: int, microbatches: int, virtual: int) -> Pipeline:
    """Return the ranks of a pipeline, and the order that they run in: 1F1B, interleaved with several stages."""
    chosen = family("1f1b" if virtual == 1 else "interleaved-1f1b")
    shape = chosen.problem(ranks, microbatches, virtual)
    schedule = chosen.generate(shape)
    return Pipeline(shape, schedule, moments_of(schedule, shape.stages_of))


def _held_once(setup: SetUp, model: Model, name: str) -> int:
    """Return of what all layers have together what tied ones have in common, where one rank holds them all.

    On several ranks embedding and output layer stand on the first and the last one.
    """
    if setup.pipeline_parallel > 1:
        return 0
    return sum(getattr(weight, name) * (len(weight.layers) - 1) for weight in model.tied_weights)


def _too_large(setup: SetUp, needed: int, room: int, what: str) -> Rejected:
    told = Units("us", DECODER_UNIT).over(needed, room)
    return Rejected(setup._asdict(), f"does not fit: {what} {told}", needed - room)


class Advice(NamedTuple):
    """The fastest set-ups of a cluster, and what is known of the others.

    Attributes
    ----------
    ranked
        The fastest, in order.
    rejected
        Those that are not for this model and cluster, with the reason.
    slower
        Those that are slower than all of the fastest, with ticks that their step cannot go below.
    pricing
        What priced them.
    unpriced
        How many were not looked at, since the search was stopped.
    """

    ranked: list[Priced]
    rejected: list[Rejected]
    slower: list[tuple[SetUp, int]]
    pricing: Pricing
    unpriced: int = 0


def advise(
    shape: Decoder,
    training: Training,
    cluster: Cluster,
    *,
    top: int = 10,
    name: str = "",
    stop: threading.Event | None = None,
) -> Advice:
    """Return the ``top`` fastest set-ups of a cluster for a decoder.

    Set-ups are priced in the order of a bound on their step, until no other can be among the fastest. A step is a
    pipeline's makespan under 1F1B (interleaved with several stages a rank), with the all-reduces of the layers in it,
    and then the reduction of the gradients; nothing of these overlaps. Links are the slowest of their group.

    Parameters
    ----------
    training
        How the decoder is trained; degrees, micro-batch size and recomputation are replaced by those that are chosen.
    stop
        Set it to end the search early; the fastest of those that were priced are kept.

    Raises
    ------
    InputError
        If the decoder's own numbers do not go together, or no set-up can be made of what may be chosen.
    """
    pricing = Pricing(shape, training, cluster, name)
    setups, rejected = setups_of(shape, training, cluster)
    if not setups and not rejected:
        raise InputError(Fault("choices", *why_none(cluster)))
    queue: list[tuple[int, SetUp]] = []
    stop, bounded = stop or threading.Event(), 0
    for setup in setups:
        if stop.is_set():
            break
        bounded += 1
        try:
            if (hopeless := pricing.hopeless(setup)) is not None:
                rejected.append(hopeless)
            else:
                queue.append((pricing.least(setup), setup))
        except InfeasibleError as error:  # recomputing a layer takes more than there is
            rejected.append(Rejected(setup._asdict(), f"does not fit: {error.faults[0].message}"))
    queue.sort()
    ranked: list[Priced] = []
    while queue and not stop.is_set() and (len(ranked) < top or queue[0][0] < ranked[top - 1].step):
        outcome = pricing.price(queue.pop(0)[1])  # the one with the least bound
        if isinstance(outcome, Rejected):
            rejected.append(outcome)
        else:
            insort(ranked, outcome, key=lambda priced: (priced.step, priced.setup))
    slower = [(priced.setup, priced.step) for priced in ranked[top:]] + [(setup, least) for least, setup in queue]
    if stop.is_set():
        return Advice(ranked[:top], rejected, [], pricing, len(queue) + len(setups) - bounded)
    return Advice(ranked[:top], rejected, slower, pricing)
