"""Cuts of equal layers: the least of what the busiest and the fullest rank have, against all cuts."""

from __future__ import annotations

import random
from itertools import combinations, pairwise

import pytest

import schedverify as sv
from schedverify.core.model import Devices, Layer, Model
from schedverify.partitioner.account import Layers, lacking, moments_of, peaks_of, usage_of
from schedverify.partitioner.equal_layers import EqualLayers


def every(count: int, stages: int) -> list[Layers]:
    return [
        tuple(tuple(range(*pair)) for pair in pairwise((0, *inner, count)))
        for inner in combinations(range(1, count), stages - 1)
    ]


@pytest.mark.parametrize("seed", range(25))
def test_they_are_those_of_all_cuts(seed: int) -> None:
    rng = random.Random(seed)
    ranks, virtual = rng.choice(((1, 1), (2, 1), (3, 1), (2, 2), (2, 3), (1, 3)))
    count, microbatches = rng.randint(max(ranks * virtual, 3), 9), rng.randint(1, 6)
    first, equal, last = (
        {"forward": rng.randint(0, 9), "backward": rng.randint(0, 9), "activation": rng.randint(1, 9),
         "parameters": rng.randint(0, 9)} for _ in range(3)
    )  # fmt: skip
    layers = (Layer("first", **first), *(Layer(f"l{i}", **equal) for i in range(count - 2)), Layer("last", **last))
    shape = sv.Problem.chain(ranks=ranks, microbatches=microbatches, virtual=virtual)
    family = "1f1b" if virtual == 1 else "interleaved-1f1b"
    moments, placement = moments_of(sv.generate(family, shape), shape.stages_of), shape.owner_rank
    model = Model("m", layers)
    peaks = {cut: max(peaks_of(model, cut, placement, moments)) for cut in every(count, shape.stages)}
    for room in (min(peaks.values()) - 1, min(peaks.values()), max(peaks.values()) // 2, max(peaks.values())):
        tight = Model("m", layers, devices=Devices(memory=(max(room, 0),)))
        counts = EqualLayers(tight, shape.stages_of, moments)
        assert peaks[counts.nearest()] == min(peaks.values())
        fitting = [cut for cut, peak in peaks.items() if peak <= max(room, 0)]
        found = counts.least_bottleneck()
        assert (found is None) == (not fitting)
        if found is not None:
            assert not lacking(peaks_of(tight, found, placement, moments), tight.devices.memory)
            least = min(usage_of(tight, cut, placement).bottleneck for cut in fitting)
            assert usage_of(tight, found, placement).bottleneck == least


def test_without_a_limit_stages_of_a_rank_are_as_even_as_can_be() -> None:
    layers = tuple(Layer(f"l{i}", 1, 2) for i in range(10))
    shape = sv.Problem.chain(ranks=2, microbatches=4, virtual=2)
    moments = moments_of(sv.generate("interleaved-1f1b", shape), shape.stages_of)
    found = EqualLayers(Model("m", layers), shape.stages_of, moments).least_bottleneck()
    assert found is not None
    assert sorted(map(len, found)) == [2, 2, 3, 3]
