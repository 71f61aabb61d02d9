"""Bounds on the makespan of all partitions that begin alike: by hand on small models, and against a family's own."""

from __future__ import annotations

import dataclasses
from itertools import combinations, pairwise

import pytest

from schedverify.core.errors import InputError, UnsupportedError
from schedverify.core.model import Devices, Layer, Model, PartitionConstraints
from schedverify.core.problem import Problem
from schedverify.generators import generate
from schedverify.partitioner.lower_bounds import MakespanBounds, PartialPartition
from schedverify.partitioner.stage_problem import stage_problem
from schedverify.simulator.engine import simulate

SIX = tuple(Layer(f"l{i}", 1 + i % 3, 2 + i % 2, output=i) for i in range(6))


def completed(bounds: MakespanBounds) -> list[PartialPartition]:
    """Return every whole partition, one stage after another."""
    root = bounds.root()
    partial = [] if root is None else [root]
    for _ in range(bounds.stages):
        partial = [longer for each in partial for longer in bounds.longer(each)]
    return partial


def test_two_layers_on_two_ranks_by_hand() -> None:
    """Pair: F0 + B0 + M (F1 + B1) = 3 + 3 * 6; load of rank 1: head 1, three times 6, tail 2. 1F1B takes just that."""
    model = Model("m", (Layer("a", 1, 2), Layer("b", 2, 4)))
    bounds = MakespanBounds(model, (0, 1), 2, 3)
    (whole,) = completed(bounds)
    assert whole == PartialPartition((0, 1, 2), 21, 3 + 6, 1 + 2, (3, 6), (1, 2), (0, 3), 3**2 + 6**2)
    problem = Problem.chain(ranks=2, microbatches=3, forward=[1, 2], backward=[2, 4])
    assert simulate(generate("1f1b", problem), problem).makespan == 21


def test_a_link_counts_both_ways() -> None:
    """A tensor of 5 bytes at 2 bytes a tick and a latency of 4: 7 ticks each way."""
    layers = (Layer("a", 1, 2, output=5), Layer("b", 2, 4))
    bounds = MakespanBounds(Model("m", layers, devices=Devices(latency=4, bandwidth=2)), (0, 1), 2, 3)
    root = bounds.root()
    assert root is not None
    assert root.bound == 21 + 2 * 7


def test_a_split_backward_counts_its_least_parts() -> None:
    """G is I where that is less than B; a whole backward is I and W where that is less."""
    layers = (Layer("a", 1, 9, 1, 2), Layer("b", 2, 9, 2, 3))
    (whole,) = completed(MakespanBounds(Model("m", layers), (0, 1), 2, 3))
    assert (whole.loads, whole.forwards) == ((1 + 3, 2 + 5), (1, 2))
    assert whole.bound == max(1 + 3 + 3 * (2 + 2), 1 + 3 * 7)


@pytest.mark.parametrize("edges", [None, ((0, 1), (0, 2), (1, 3), (2, 3), (3, 4), (4, 5))])
def test_every_partition_comes_once_and_its_bound_never_falls(edges: tuple[tuple[int, int], ...] | None) -> None:
    """What a family takes is no less than the bound of its partition, and that no less than those on the way to it."""
    model, shape = Model("m", SIX, edges=edges), Problem.chain(ranks=3, microbatches=4)
    bounds = MakespanBounds(model, (0, 1, 2), 3, 4)
    found = completed(bounds)
    assert len({whole.cuts for whole in found}) == len(found)
    if edges is None:
        assert {whole.cuts for whole in found} == {(0, *cuts, 6) for cuts in combinations(range(1, 6), 2)}
    root = bounds.root()
    assert root is not None
    assert root.bound == min(whole.bound for whole in found)
    for whole in found:
        layers = tuple(bounds.cuts.layers_between(*pair) for pair in pairwise(whole.cuts))
        problem = stage_problem(model, layers, shape)
        assert simulate(generate("1f1b", problem), problem).makespan >= whole.bound >= root.bound


def test_memory_and_constraints_leave_partitions_out() -> None:
    layers = tuple(Layer(f"l{i}", 1, 1, parameters=10, activation=1) for i in range(6))
    roomy = Model("m", layers, devices=Devices(memory=(33,)))  # three layers with a micro-batch in flight
    assert {whole.cuts for whole in completed(MakespanBounds(roomy, (0, 1), 2, 2))} == {(0, 3, 6)}
    tight = Model("m", layers, devices=Devices(memory=(32,)))
    assert MakespanBounds(tight, (0, 1), 2, 2).root() is None
    alone = Model("m", layers, constraints=PartitionConstraints(alone=(0,), pinned=((5, 2),)))
    cuts = {whole.cuts for whole in completed(MakespanBounds(alone, (0, 1, 2), 3, 2))}
    assert cuts == {(0, 1, middle, 6) for middle in range(2, 6)}


def test_several_stages_of_a_rank_add_up() -> None:
    """Four equal layers, two on each rank: each rank has 2 * 3 ticks for each of 5 micro-batches at least."""
    model = Model("m", tuple(Layer(f"l{i}", 1, 2) for i in range(4)))
    bounds = MakespanBounds(model, (0, 1, 0, 1), 2, 5)
    root = bounds.root()
    assert root is not None
    assert root.bound >= 5 * 6
    (whole,) = completed(bounds)
    assert (whole.loads, whole.cuts) == ((6, 6), (0, 1, 2, 3, 4))
    tight = Model("m", tuple(Layer(f"l{i}", parameters=10) for i in range(4)), devices=Devices(memory=(15,)))
    assert MakespanBounds(tight, (0, 1, 0, 1), 2, 5).root() is None


def test_unevenness_is_least_where_the_rest_is_shared_equally() -> None:
    model = Model("m", tuple(Layer(f"l{i}", 1, 1) for i in range(6)))
    bounds = MakespanBounds(model, (0, 1, 2), 3, 1)
    root = bounds.root()
    assert root is not None
    assert bounds.unevenness(root) == 12**2 // 3
    first = next(partial for partial in bounds.longer(root) if partial.cuts == (0, 4))
    assert bounds.unevenness(first) == 8**2 + 4**2 // 2
    assert {bounds.unevenness(whole) for whole in completed(bounds) if whole.cuts == (0, 2, 4, 6)} == {3 * 4**2}


def test_what_does_not_go_together_is_refused() -> None:
    with pytest.raises(InputError, match="6 layers cannot fill 7 stages"):
        MakespanBounds(Model("m", SIX), tuple(range(7)), 7, 1)
    with pytest.raises(UnsupportedError, match="all steps together take more than 2\\^60 ticks"):
        MakespanBounds(Model("m", (Layer("a", 1 << 59, 1),)), (0,), 1, 2)


@pytest.mark.parametrize("placement", [(0, 1), (0, 0, 1), (0, 0, 0, 1)])
@pytest.mark.parametrize(("latency", "output"), [(1 << 59, 0), ((1 << 62) - 1, 0), (0, 1 << 59), (1 << 62, 1 << 62)])
def test_what_all_links_take_counts_wherever_they_are(placement: tuple[int, ...], latency: int, output: int) -> None:
    """The first stages may be on one rank: the link behind them takes as long."""
    layers = tuple(Layer(f"l{i}", 1, 1, output=output) for i in range(4))
    devices = Devices(latency=latency, bandwidth=1 if output else None)
    with pytest.raises(UnsupportedError, match=r"more than 2\^60 (ticks|bytes)"):
        MakespanBounds(Model("m", layers, devices=devices), placement, 2, 1)
    shorter = dataclasses.replace(devices, latency=1 << 57) if not output else Devices(latency=1 << 57)
    root = MakespanBounds(Model("m", layers, devices=shorter), placement, 2, 1).root()
    assert root is not None
    assert root.bound >= 2 << 57
