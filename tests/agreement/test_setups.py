"""Set-ups of a cluster priced a second time: every contiguous cut of each, by what its layers come to.

The second account takes the layers of a set-up and the order of 1F1B from the package; sums, memory step by step, times
of the pipeline and the reduction of gradients are its own.
"""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from fractions import Fraction

import pytest

import schedverify as sv
from oracle import cuts as oracle
from oracle.setups import every_cut, step_of
from schedverify.core.errors import InfeasibleError
from schedverify.costmodel.decoder import Decoder, Device, Training
from schedverify.costmodel.decoder.device import Link
from schedverify.costmodel.parallelism import Choices, Cluster, Priced, Rejected
from schedverify.costmodel.parallelism.pricing import Pricing
from schedverify.costmodel.parallelism.setups import SetUp, setups_of

DEFAULT, WHOLE = 60, 1500


def drawn(seed: int) -> tuple[Pricing, SetUp]:
    """Draw a decoder of up to 12 layers, a cluster, and one of its set-ups with a pipeline."""
    rng = random.Random(seed)
    while True:
        layers, tables = rng.choice((1, 2, 3, 4, 4, 5, 5, 6, 6, 7, 8, 10)), rng.choice((200, 20_000, 100_000))
        shape = Decoder(layers, 256 * rng.randint(1, 4), 4, tables, gated=rng.random() < 0.5)
        training = Training(rng.choice((64, 512)), distributed_optimizer=rng.random() < 0.5)
        between = Link(Fraction(rng.choice((10**8, 10**10, 10**12))), Fraction(rng.randint(0, 5), 10**5))
        device = Device(Fraction(10**13), inside=Link(Fraction(10**11)), between=between)
        choices = Choices(tensor_parallel=(1, 2), virtual=(1, 2, 3))
        cluster = Cluster(rng.choice((1, 2)), rng.choice((2, 4)), rng.choice((4, 8, 12)), device, choices)
        setups = [setup for setup in setups_of(shape, training, cluster)[0] if setup.pipeline_parallel > 1]
        if not setups:
            continue
        setup = rng.choice(setups)
        if rng.random() < 0.8:
            least = sum(layer.resident for layer in Pricing(shape, training, cluster).model(setup).layers)
            memory = least // setup.pipeline_parallel * rng.randint(95, 170) // 100 + rng.randint(0, 40) * 10**6
            cluster = replace(cluster, device=replace(device, memory=memory + rng.choice((0, 10**9))))
        try:
            pricing = Pricing(shape, training, cluster)
            pricing.model(setup)
        except InfeasibleError:  # nothing is left beside what a layer needs when it is computed again
            continue
        return pricing, setup


def hold(seed: int) -> str:
    """Hold the price of a drawn set-up against every cut; return what came of it."""
    pricing, setup = drawn(seed)
    model, hopeless = pricing.model(setup), pricing.hopeless(setup)
    outcome = hopeless or pricing.price(setup)
    ranks = setup.pipeline_parallel
    placement = [stage % ranks for stage in range(ranks * setup.virtual)]
    family = "1f1b" if setup.virtual == 1 else "interleaved-1f1b"
    problem = sv.Problem.chain(ranks=ranks, microbatches=setup.microbatches, virtual=setup.virtual)
    order = str(sv.generate(family, problem))
    room = model.devices.memory[0] if model.devices.memory else None
    held = {
        cut: max(oracle.held(model, [list(stage) for stage in cut], placement, order))
        for cut in every_cut(len(model.layers), len(placement))
    }
    fitting = [cut for cut, peak in held.items() if room is None or peak <= room]
    if not fitting:
        assert isinstance(outcome, Rejected)
        assert room is not None
        lacking = min(held.values()) - room
        assert outcome.missing == lacking if hopeless is None else 0 < outcome.missing <= lacking
        return "hopeless" if hopeless else "rejected"
    assert isinstance(outcome, Priced), outcome
    steps = {cut: step_of(pricing, setup, model, cut, placement, order) for cut in fitting}
    assert outcome.step == min(steps.values()) == steps[outcome.layers]
    assert outcome.peak == held[outcome.layers]
    assert pricing.least(setup) <= outcome.step
    return "priced" if len(fitting) == len(held) else "priced where not all fit"


@pytest.mark.parametrize("part", range(3))
def test_no_cut_of_a_setup_is_faster_and_none_fits_where_it_is_rejected(part: int) -> None:
    told = Counter(hold(seed) for seed in range(part * DEFAULT // 3, (part + 1) * DEFAULT // 3))
    assert told["priced"] + told["priced where not all fit"] > 0


@pytest.mark.slow
@pytest.mark.parametrize("part", range(10))
def test_fifteen_hundred_setups_priced_again(part: int) -> None:
    told = Counter(hold(seed) for seed in range(DEFAULT + part * WHOLE // 10, DEFAULT + (part + 1) * WHOLE // 10))
    assert told["rejected"] > 0
    assert told["priced where not all fit"] > 0
