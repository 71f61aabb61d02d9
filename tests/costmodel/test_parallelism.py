"""Degrees of hybrid parallelism: against trying everything, against formulas, and against published steps."""

from __future__ import annotations

import os
import subprocess
import sys
from fractions import Fraction
from itertools import product
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schedverify as sv
from schedverify.cli import partition_cluster
from schedverify.costmodel.decoder import Decoder, Device, Training
from schedverify.costmodel.decoder.device import Link
from schedverify.costmodel.parallelism import Choices, Cluster, Priced, Rejected, SetUp, advise
from schedverify.costmodel.parallelism.pricing import Pricing
from schedverify.costmodel.parallelism.setups import setups_of
from schedverify.formats.models.cluster_files import cluster_from, load_decoder

ROOT = Path(__file__).parents[2]
INSIDE, BETWEEN = Link(Fraction(10**11), Fraction(1, 10**6)), Link(Fraction(10**9), Fraction(1, 10**5))
DEVICE = Device(Fraction(10**12), memory=2 * 10**9, inside=INSIDE, between=BETWEEN)
SHAPE = Decoder(6, 1024, 8, 8000, gated=True)
TIED = Decoder(6, 1024, 8, 16000, gated=True, tied=True)
TRAINING = Training(256)
STEPS = {"megatron-22b": (1, 4, (8, 1, 1, 4), "1.10"), "gpt-3-175b": (8, 64, (8, 8, 3, 1), "13.75"),
         "megatron-530b": (35, 280, (8, 35, 3, 1), "37.83"),
         "megatron-1t": (64, 512, (8, 64, 1, 1), "71.49")}  # fmt: skip
"""Table 5 of arXiv 2205.05198: nodes, batch, degrees (tensor, pipeline, virtual, micro-batch), seconds of a step."""


def cluster(
    nodes: int = 2, devices: int = 4, batch: int = 16, device: Device = DEVICE, **choices: tuple[int, ...]
) -> Cluster:
    return Cluster(nodes, devices, batch, device, Choices(**choices))


def test_every_way_to_deal_out_the_devices_is_one_or_is_told() -> None:
    there = cluster(virtual=(1, 2))
    setups, rejected = setups_of(SHAPE, TRAINING, there)
    assert {setup[:3] for setup in setups} <= {d for d in product((1, 2, 4, 8), repeat=3) if d[0] * d[1] * d[2] == 8}
    assert all(s.microbatches * s.data_parallel * s.microbatch_size == 16 for s in setups)
    assert len(set(setups)) == len(setups)
    told = {one.reason for one in rejected}
    assert "8 copies with 4 sequences at a time do not divide a batch of 16" in told
    assert "16 stages for 6 layers with embedding and head" in told
    odd, why = setups_of(Decoder(6, 1020, 6, 8000), TRAINING, cluster(data_parallel=(1, 3)))
    assert {setup.tensor_parallel for setup in odd} == {1, 2}
    assert Rejected({"tensor_parallel": 4}, "4 devices do not divide 6 heads") in why
    assert Rejected({"data_parallel": 3}, "3 does not divide 8 devices") in why


def test_steps_of_more_operations_than_can_be_priced_are_told() -> None:
    there = cluster(batch=1 << 18, tensor_parallel=(4,), virtual=(1,), microbatch_size=(1, 2), recompute=("none",))
    setups, rejected = setups_of(SHAPE, TRAINING, there)
    assert {setup.microbatches for setup in setups} == {1 << 16, 1 << 17}
    assert all(2 * setup.pipeline_parallel * setup.microbatches <= 1 << 19 for setup in setups)
    (told,) = [one for one in rejected if "priced" in one.reason]
    assert told.setup == {"pipeline_parallel": 2, "data_parallel": 1, "virtual": 1, "microbatch_size": 1}
    assert told.reason.startswith("262144 micro-batches through 2 stages make 1048576 operations, and at most 524288")


def test_the_ranked_are_the_fastest_of_all() -> None:
    there = cluster(virtual=(1, 2), microbatch_size=(1, 2))
    found = advise(SHAPE, TRAINING, there, top=5)
    pricing = Pricing(SHAPE, TRAINING, there)
    setups, _ = setups_of(SHAPE, TRAINING, there)
    prices = [pricing.hopeless(setup) or pricing.price(setup) for setup in setups]
    fitting = sorted((p.step, p.setup) for p in prices if isinstance(p, Priced))
    assert [(p.step, p.setup) for p in found.ranked] == fitting[:5]
    large = {tuple(p.setup.items()) for p in prices if isinstance(p, Rejected)}
    assert large
    assert {tuple(one.setup.items()) for one in found.rejected if one.missing} <= large
    assert len(found.ranked) + len(found.slower) + sum(one.missing > 0 for one in found.rejected) == len(setups)
    assert all(least >= found.ranked[-1].step for _, least in found.slower)


@given(
    st.sampled_from((1, 2, 4)), st.sampled_from((1, 2, 4)), st.integers(1, 2), st.integers(1, 9), st.integers(2, 9),
    st.integers(1, 20),
)  # fmt: skip
@settings(deadline=None, max_examples=40)
def test_no_step_is_below_its_bound(tensor: int, pipeline: int, virtual: int, count: int, layers: int, v: int) -> None:
    shape = Decoder(max(layers, pipeline * virtual - 2), 256, 4, 500 * v)
    there = cluster(1, tensor * pipeline, count, Device(Fraction(10**12), inside=INSIDE))
    setup = SetUp(tensor, pipeline, 1, virtual if pipeline > 1 else 1, 1, "selective", "data", count)
    pricing = Pricing(shape, TRAINING, there)
    priced = pricing.price(setup)
    assert isinstance(priced, Priced)
    assert pricing.least(setup) <= priced.step


def test_one_device_takes_all_work_one_after_another() -> None:
    there = cluster(1, 1, 8, Device(Fraction(10**12)), recompute=("full",), microbatch_size=(2,))
    (priced,) = advise(SHAPE, TRAINING, there).ranked
    model_work = sum(layer.work for layer in Pricing(SHAPE, TRAINING, there).model(priced.setup).layers)
    assert priced.step == 4 * model_work
    assert priced.reducing == priced.bubble == priced.sharing == 0


def test_links_are_the_slowest_of_their_group() -> None:
    pricing = Pricing(SHAPE, TRAINING, cluster(4, 4))
    expected = {
        (4, 2, 2, "data"): (INSIDE, BETWEEN, BETWEEN),
        (2, 4, 2, "data"): (INSIDE, BETWEEN, INSIDE),
        (2, 2, 4, "pipeline"): (INSIDE, INSIDE, BETWEEN),
        (8, 1, 2, "data"): (BETWEEN, BETWEEN, BETWEEN),
        (1, 4, 4, "data"): (INSIDE, BETWEEN, INSIDE),
    }
    for (tensor, pipeline, data, inner), links in expected.items():
        setup = SetUp(tensor, pipeline, data, 1, 1, "full", inner, 4)
        assert pricing._links(setup) == links
    alone = Pricing(SHAPE, TRAINING, cluster(1, 16))
    assert alone._links(SetUp(2, 4, 2, 1, 1, "full", "data", 4)) == (INSIDE, INSIDE, INSIDE)


@pytest.mark.parametrize("shape", [SHAPE, TIED], ids=["untied", "tied"])
@pytest.mark.parametrize(("distributed", "bytes_"), [(False, 2 * 4), (True, 4 + 2)])
def test_copies_reduce_gradients_in_a_ring(distributed: bool, bytes_: int, shape: Decoder) -> None:
    """Each of 4 devices sends 3/4 of the gradients twice; or of the gradients once, and of the new weights once."""
    there = cluster(4, 1, device=Device(Fraction(10**15), between=BETWEEN), data_parallel=(4,), microbatch_size=(1,),
                    recompute=("full",))  # fmt: skip
    training = Training(256, distributed_optimizer=distributed)
    (priced,) = advise(shape, training, there).ranked
    seconds = Fraction(3 * bytes_ * shape.parameters, 4 * 10**9) + 6 * BETWEEN.latency
    assert priced.reducing == -(-seconds * 10**6 // 1)


@pytest.mark.parametrize("shape", [SHAPE, TIED], ids=["untied", "tied"])
def test_what_does_not_fit_is_told_by_how_much_and_what_fits_does(shape: Decoder) -> None:
    there = cluster(1, 4, virtual=(1,), tensor_parallel=(1,), microbatch_size=(1,))
    found = advise(shape, TRAINING, there)
    assert found.ranked
    for priced in found.ranked:
        assert priced.peak <= 2 * 10**9
        schedule = sv.generate("1f1b", priced.problem)
        assert max(sv.simulate(schedule, priced.problem).peak_memory) == priced.peak
        assert sv.verify(schedule, priced.problem).ok
    (large,) = [one for one in found.rejected if one.setup["data_parallel"] == 4 and one.setup["recompute"] == "full"]
    weights = 18 * shape.parameters
    assert (
        large.missing
        == weights - Pricing(shape, TRAINING, there).model(SetUp(1, 1, 4, 1, 1, "full", "data", 4)).devices.memory[0]
    )
    assert large.reason.startswith("does not fit: weights and optimizer alone take 2.")


def test_recomputation_that_needs_more_than_there_is_is_told() -> None:
    there = cluster(1, 2, device=Device(Fraction(10**12), memory=10**6), recompute=("full",))
    found = advise(SHAPE, TRAINING, there)
    assert not found.ranked
    told = [line for line in partition_cluster.remarks(found) if "hold no layer" in line]
    assert len(told) == len({one.reason for one in found.rejected if "hold no layer" in one.reason}) > 0


def test_utilization_leaves_out_what_is_computed_again() -> None:
    there = cluster(1, 1, 4, Device(Fraction(10**12)), microbatch_size=(1,), recompute=("none", "selective", "full"))
    found = advise(SHAPE, Training(256), there)
    part = {p.setup.recompute: found.pricing.utilization(p) for p in found.ranked}
    assert 0.999 < part["none"] <= 1
    assert part["full"] < part["selective"] < part["none"]
    assert abs(part["full"] - Fraction(3, 4)) < Fraction(1, 20)


@pytest.mark.parametrize("name", STEPS)
def test_published_steps_come_out_within_a_quarter(name: str) -> None:
    """The efficiency that comes along is that of the smallest; larger products reach more, so that these are slower."""
    nodes, batch, (tensor, pipeline, virtual, size), seconds = STEPS[name]
    choices = {"tensor_parallel": tensor, "pipeline_parallel": pipeline, "virtual": virtual, "microbatch_size": size}
    data = {"nodes": nodes, "devices": 8, "batch": batch, "device": {"like": "a100-80gb"}}
    there = cluster_from({**data, "choices": {**choices, "recompute": "selective"}})
    decoder = load_decoder(name, {"training": {"sequence": 2048}})
    (priced,) = advise(decoder.shape, decoder.training, there).ranked
    assert Fraction(3, 4) < Fraction(priced.step, 10**6) / Fraction(seconds) < Fraction(5, 4)


@pytest.mark.slow
def test_the_rules_turn_where_the_page_says() -> None:
    command = [sys.executable, str(ROOT / "docs" / "how-to" / "hybrid.py"), "--check"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, timeout=280, check=False, env=environment)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
