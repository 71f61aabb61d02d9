"""Partitions: equal to brute force, to PipeDream's optimizer, and true to what is asked of them."""

from __future__ import annotations

import re
import sys
from contextlib import nullcontext
from types import FrameType
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracle import cuts as oracle
from schedverify.core.errors import InfeasibleError, InputError
from schedverify.core.model import Devices, Layer, Model, PartitionConstraints
from schedverify.optimizer.effort import Effort
from schedverify.partitioner import cp_sat, least_bottleneck
from schedverify.partitioner.account import Moment, Moments, one_of_each
from schedverify.partitioner.stage_problem import cut

Edges = tuple[tuple[int, int], ...] | None


@st.composite
def models(draw: st.DrawFn, most: int = 7) -> Model:
    """Draw a chain or a graph of up to ``most`` layers, with wishes and devices."""
    count = draw(st.integers(1, most))
    layers = tuple(_layer(draw, f"l{i}") for i in range(count))
    pairs = [(a, b) for b in range(count) for a in range(b)]
    edges = draw(st.none() | st.lists(st.sampled_from(pairs), unique=True).map(tuple)) if pairs else None
    members = st.integers(0, count - 1)
    constraints = PartitionConstraints(
        draw(st.lists(st.tuples(members, st.just(-1)), max_size=1).map(tuple)),
        draw(st.lists(st.lists(members, min_size=2, max_size=2, unique=True).map(tuple), max_size=1).map(tuple))
        if count > 1
        else (),
        draw(st.lists(members, max_size=1).map(tuple)),
    )
    return Model("drawn", layers, edges=edges, constraints=constraints)


def _layer(draw: st.DrawFn, name: str) -> Layer:
    small, active = st.integers(0, 9), draw(st.integers(0, 9))
    part = st.just(0) | st.integers(0, active)
    return Layer(name, draw(small), draw(small), activation=active, weight_stash=draw(part), parameters=draw(small),
                 output=draw(small), entry=draw(part))  # fmt: skip


def brute_force(m: Model, placement: tuple[int, ...], moments: Moments) -> tuple[int, ...] | None:
    """Return the least of what counts (bottleneck, largest stage, bytes) by trying every partition."""
    values = (judged(m, on, placement, moments) for on in oracle.every(m, len(placement)))
    return min((value for value in values if value is not None), default=None)


def judged(m: Model, on: list[list[int]], placement: tuple[int, ...], moments: Moments) -> tuple[int, ...] | None:
    """Return what counts of a partition, or None where it breaks memory."""
    memory, sizes = m.devices.memory, [oracle.bytes_of(m, layers) for layers in on]
    for rank in set(placement):
        own = [size for size, home in zip(sizes, placement, strict=True) if home == rank]
        held = max(
            sum(flight * size[0] + waiting * size[1] for size, flight, waiting in zip(own, *each, strict=True))
            for each in moments[rank]
        ) + oracle.always_on(m, on, list(placement), rank)
        if memory and held > memory[rank % len(memory)]:
            return None
    return oracle.order_of(m, on, list(placement))


@given(models(), st.integers(1, 4), st.data())
@settings(deadline=None, max_examples=150)
def test_equal_to_brute_force(m: Model, stages: int, data: st.DataObject) -> None:
    memory = data.draw(st.just(()) | st.lists(st.integers(5, 60), min_size=stages, max_size=stages).map(tuple))
    slowness = data.draw(st.just((1,)) | st.lists(st.integers(1, 3), min_size=stages, max_size=stages).map(tuple))
    devices = Devices(memory, slowness, 0, data.draw(st.none() | st.integers(1, 3)))
    m = Model(m.name, m.layers, edges=m.edges, constraints=m.constraints, devices=devices)
    placement = tuple(range(stages))
    moments: Moments = tuple((Moment((count,), (0,)), Moment((1,), (count,))) for count in range(stages, 0, -1))
    expected = brute_force(m, placement, moments) if stages <= len(m.layers) else None
    if expected is None:
        with pytest.raises(InputError):
            least_bottleneck(m, placement, moments)
    else:
        found = least_bottleneck(m, placement, moments)
        assert (found.bottleneck, found.crossing) == (expected[0], expected[-1])
        assert judged(m, [list(layers) for layers in found.layers], placement, moments) == expected


def moments_of(stages: int) -> st.SearchStrategy[Moment]:
    counts = st.tuples(*[st.integers(0, 4)] * stages)
    return st.builds(Moment, counts, counts)


@given(models(6), st.integers(1, 4), st.sampled_from(["one each", "loop", "v"]), st.data())
@settings(deadline=None, max_examples=60)
def test_the_solver_equals_brute_force(m: Model, stages: int, how: str, data: st.DataObject) -> None:
    """With one stage a rank it equals dynamic programming as well, which equals brute force; layer by layer too."""
    half = max(stages // 2, 1)
    placement = {
        "one each": tuple(range(stages)),
        "loop": tuple(stage % half for stage in range(stages)),
        "v": tuple(min(stage, stages - 1 - stage) for stage in range(stages)),
    }[how]
    ranks = max(placement) + 1
    memory = data.draw(st.just(()) | st.lists(st.integers(10, 90), min_size=ranks, max_size=ranks).map(tuple))
    devices = Devices(memory, (1,), 0, data.draw(st.none() | st.integers(1, 3)))
    m = Model(m.name, m.layers, edges=m.edges, constraints=m.constraints, devices=devices)
    moments = tuple(
        tuple(data.draw(st.lists(moments_of(placement.count(rank)), min_size=1, max_size=3))) for rank in range(ranks)
    )
    expected = brute_force(m, placement, moments) if stages <= len(m.layers) else None
    with mock.patch.object(cp_sat, "MOST_PAIRED", data.draw(st.sampled_from([cp_sat.MOST_PAIRED, 0]))):
        if expected is None:
            with pytest.raises(InputError):
                least_bottleneck(m, placement, moments, solver=True)
        else:
            found = least_bottleneck(m, placement, moments, solver=True, effort=Effort(20, workers=1))
            assert found.proved
            assert judged(m, [list(layers) for layers in found.layers], placement, moments) == expected


def test_a_thousand_layers_on_64_stages_take_a_moment() -> None:
    """A look at a bottleneck takes a few calls for each stage, and as many of them whatever the number of layers.

    20 looks by doubling and bisection come to 6760 calls.
    """
    layers = tuple(Layer(f"l{i}", 1 + i * 7919 % 20_000, 1 + i * 104_729 % 20_000, output=5) for i in range(1000))
    placement, calls = tuple(range(64)), 0
    model, moments = Model("m", layers), one_of_each(placement, 64)

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and str(frame.f_globals.get("__name__")).startswith("schedverify.")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        found = least_bottleneck(model, placement, moments)
    finally:
        sys.setprofile(before)
    assert sum(map(len, found.layers)) == 1000
    assert calls < 10_000


class TestNoPartition:
    """Why there is none: which wish, or which rank lacks how much."""

    @pytest.mark.parametrize("solver", [False, True])
    @pytest.mark.parametrize("edges", [None, tuple((0, i) for i in range(1, 7))])
    def test_what_is_told_to_be_lacking_is_enough_and_no_less_is(self, solver: bool, edges: Edges) -> None:
        layers = tuple(Layer(f"l{i}", 1, 1, activation=i % 3, parameters=3 * i) for i in range(7))
        states = ((Moment((2,), (0,)),), (Moment((1,), (0,)),))
        with pytest.raises(InfeasibleError) as caught:
            least_bottleneck(
                Model("m", layers, edges=edges, devices=Devices(memory=(20, 9))), (0, 1), states, solver=solver
            )
        lacking = int(re.search(r"it takes (\d+) units? more", str(caught.value))[1])  # type: ignore[index]
        for more, fits in ((lacking - 1, False), (lacking, True)):
            model = Model("m", layers, edges=edges, devices=Devices(memory=(20 + more, 9 + more)))
            with nullcontext() if fits else pytest.raises(InfeasibleError):
                least_bottleneck(model, (0, 1), states, solver=solver)
        assert re.search(r"holds \d+ units, \d+ units? over its (20|9) units, on rank \d", str(caught.value))

    def test_two_stages_of_a_rank_hold_what_both_do(self) -> None:
        layers = tuple(Layer(f"l{i}", 1, 1, parameters=10) for i in range(4))
        with pytest.raises(
            InfeasibleError, match=r"it takes 5 units more .* holds 20 units, 5 units over its 15 units, on rank \d "
        ):
            cut(Model("m", layers, devices=Devices(memory=(15,))), ranks=2, virtual=2, microbatches=4)

    @pytest.mark.parametrize("edges", [None, ((0, 1), (0, 2), (1, 3), (2, 3))])
    def test_the_wish_in_the_way_is_named(self, edges: Edges) -> None:
        layers = tuple(Layer(f"l{i}", 1, 1) for i in range(4))
        constraints = PartitionConstraints(pinned=((0, 0), (3, 1)), alone=(1,))
        with pytest.raises(InfeasibleError, match=r"^partition: no cut into 4 .* \(without pinned\[1\] there is one\)"):
            cut(Model("m", layers, edges=edges, constraints=constraints), ranks=4, microbatches=4)
        constraints = PartitionConstraints(pinned=((3, 1), (3, 2)))
        with pytest.raises(InfeasibleError, match="more than one of them would have to go"):
            cut(Model("m", layers, constraints=constraints), ranks=4, microbatches=4)
