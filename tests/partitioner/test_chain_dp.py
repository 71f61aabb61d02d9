"""The best partition of a chain with one stage a rank: which bottleneck some partition has, and where it is cut."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from schedverify.core.model import Devices, Layer, Model, PartitionConstraints
from schedverify.partitioner.account import one_of_each
from schedverify.partitioner.chain_dp import cheapest_partition, has_partition, window_minima
from schedverify.partitioner.cuts import NEVER, Cuts, cuts_of
from schedverify.partitioner.requirements import StageRequirements, requirements_of

LAYERS = tuple(Layer(f"l{i}", work, output=output) for i, (work, output) in enumerate([(4, 9), (3, 1), (5, 2), (1, 8)]))
"""Work 4 3 5 1, and 9, 1 and 2 bytes over the cuts between."""


def with_requirements(model: Model, stages: int) -> tuple[Cuts, StageRequirements]:
    cuts = cuts_of(model)
    return cuts, requirements_of(model, cuts, tuple(range(stages)), one_of_each(tuple(range(stages)), stages))


@pytest.mark.parametrize(("stages", "least", "chosen"), [(1, 13, [0, 4]), (2, 7, [0, 2, 4]), (3, 6, [0, 1, 2, 4])])
def test_the_least_bottleneck_and_its_cuts(stages: int, least: int, chosen: list[int]) -> None:
    cuts, requirements = with_requirements(Model("m", LAYERS), stages)
    assert not has_partition(cuts, requirements, least - 1)
    assert has_partition(cuts, requirements, least)
    assert cheapest_partition(cuts, requirements, least) == chosen


def test_a_looser_bound_sends_fewer_bytes() -> None:
    """Within 8 ticks three stages are cut at 1 or 2 and at 3, or at 1 and 2: 9 + 2, 1 + 2 or 9 + 1 bytes."""
    cuts, requirements = with_requirements(Model("m", LAYERS), 3)
    assert cheapest_partition(cuts, requirements, 8) == [0, 2, 3, 4]


def test_links_and_memory_and_constraints_bind() -> None:
    cuts, requirements = with_requirements(Model("m", LAYERS, devices=Devices(bandwidth=1)), 2)
    assert [bound for bound in range(20) if has_partition(cuts, requirements, bound)] == list(range(7, 20))
    cuts, requirements = with_requirements(Model("m", LAYERS[:2], devices=Devices(bandwidth=1)), 2)
    assert [has_partition(cuts, requirements, bound) for bound in (17, 18)] == [False, True]
    heavy = tuple(Layer(f"l{i}", 1, parameters=10) for i in range(4))
    for memory, fits in ((19, False), (20, True)):
        assert has_partition(*with_requirements(Model("m", heavy, devices=Devices(memory=(memory,))), 2), 9) is fits
    alone = Model("m", LAYERS, constraints=PartitionConstraints(alone=(1,)))
    assert not has_partition(*with_requirements(alone, 2), 99)
    assert cheapest_partition(*with_requirements(alone, 3), 99) == [0, 1, 2, 4]
    together = Model("m", LAYERS, constraints=PartitionConstraints(together=((1, 2),)))
    assert cheapest_partition(*with_requirements(together, 2), 99) == [0, 3, 4]


@given(st.lists(st.integers(0, 99), min_size=1, max_size=40), st.data())
def test_the_least_in_each_window_is_found(values: list[int], data: st.DataObject) -> None:
    place = st.integers(0, len(values))
    first, stop = (np.array([data.draw(place) for _ in values], dtype=np.int64) for _ in range(2))
    found = window_minima(np.array(values, dtype=np.int64), first, stop).tolist()
    pairs = zip(first.tolist(), stop.tolist(), strict=True)
    assert found == [min(values[begin:end], default=int(NEVER)) for begin, end in pairs]
