"""Partitions: equal to brute force, to PipeDream's optimizer, and true to what is asked of them."""

from __future__ import annotations

import itertools
import re
import sys
from contextlib import nullcontext
from types import FrameType

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from schedverify.core.errors import InfeasibleError, InputError
from schedverify.core.model import Devices, Layer, Model, PartitionConstraints
from schedverify.partitioner import least_bottleneck
from schedverify.partitioner.requirements import States
from schedverify.partitioner.stage_problem import cut

Edges = tuple[tuple[int, int], ...] | None


@st.composite
def models(draw: st.DrawFn, most: int = 7) -> Model:
    """Draw a chain or a graph of up to ``most`` layers, with wishes and devices."""
    count = draw(st.integers(1, most))
    small = st.integers(0, 9)
    layers = tuple(
        Layer(f"l{i}", draw(small), draw(small), activation=draw(small), parameters=draw(small), output=draw(small))
        for i in range(count)
    )
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


def brute_force(m: Model, placement: tuple[int, ...], states: States) -> tuple[int, ...] | None:
    """Return the least (bottleneck, bytes over cuts) by trying every assignment of layers to stages."""
    best = None
    count, stages = len(m.layers), len(placement)
    for stage_of in itertools.product(range(stages), repeat=count):
        if set(stage_of) == set(range(stages)) and all(stage_of[a] <= stage_of[b] for a, b in m.all_edges):
            value = judged(m, stage_of, placement, states)
            best = value if best is None or (value is not None and value < best) else best
    return best


def judged(m: Model, stage_of: tuple[int, ...], placement: tuple[int, ...], states: States) -> tuple[int, ...] | None:
    """Return what an assignment costs, or None where it breaks memory or a wish."""
    stages, devices = len(placement), m.devices
    on = [[i for i, at in enumerate(stage_of) if at == stage] for stage in range(stages)]
    if any(stage_of[layer] != stage % stages for layer, stage in m.constraints.pinned):
        return None
    if any(len({stage_of[layer] for layer in group}) > 1 for group in m.constraints.together):
        return None
    if any(len(on[stage_of[layer]]) > 1 for layer in m.constraints.alone):
        return None
    busy = []
    for rank in set(placement):
        held, load, kept = 0, 0, []
        for stage in (stage for stage, home in enumerate(placement) if home == rank):
            layers = [m.layers[i] for i in on[stage]]
            load += sum(layer.forward + layer.backward for layer in layers)
            held += sum(layer.parameters + layer.state for layer in layers)
            kept.append(sum(layer.activation for layer in layers))
        busy.append(load * devices.slowness[rank % len(devices.slowness)])
        held += max(sum(map(int.__mul__, state, kept)) for state in states[rank])
        if devices.memory and held > devices.memory[rank % len(devices.memory)]:
            return None
    over = [
        sum(m.layers[a].output for a in {a for a, b in m.all_edges if stage_of[a] <= cut < stage_of[b]})
        for cut in range(stages - 1)
    ]
    if devices.bandwidth:
        busy += [2 * -(-size // devices.bandwidth) for size in over]
    largest = max(
        devices.slowness[rank % len(devices.slowness)] * sum(m.layers[i].work for i in on[stage])
        for stage, rank in enumerate(placement)
    )
    return (max(busy), sum(over)) if len(set(placement)) == stages else (max(busy), largest, sum(over))


@given(models(), st.integers(1, 4), st.data())
@settings(deadline=None, max_examples=150)
def test_equal_to_brute_force(m: Model, stages: int, data: st.DataObject) -> None:
    memory = data.draw(st.just(()) | st.lists(st.integers(5, 60), min_size=stages, max_size=stages).map(tuple))
    slowness = data.draw(st.just((1,)) | st.lists(st.integers(1, 3), min_size=stages, max_size=stages).map(tuple))
    devices = Devices(memory, slowness, 0, data.draw(st.none() | st.integers(1, 3)))
    m = Model(m.name, m.layers, edges=m.edges, constraints=m.constraints, devices=devices)
    placement, states = tuple(range(stages)), tuple(((count,),) for count in range(stages, 0, -1))
    expected = brute_force(m, placement, states) if stages <= len(m.layers) else None
    if expected is None:
        with pytest.raises(InputError):
            least_bottleneck(m, placement, states)
    else:
        found = least_bottleneck(m, placement, states)
        assert (found.bottleneck, found.crossing) == (expected[0], expected[-1])
        stage_of = tuple(next(s for s, on in enumerate(found.layers) if i in on) for i in range(len(m.layers)))
        assert judged(m, stage_of, placement, states) == expected


@given(models(6), st.integers(1, 4), st.sampled_from(["one each", "loop", "v"]), st.data())
@settings(deadline=None, max_examples=60)
def test_the_solver_equals_brute_force(m: Model, stages: int, how: str, data: st.DataObject) -> None:
    """With one stage a rank it equals dynamic programming as well, which equals brute force."""
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
    counts = st.integers(0, 4)
    states = tuple(
        tuple(data.draw(st.lists(st.tuples(*[counts] * placement.count(rank)), min_size=1, max_size=3)))
        for rank in range(ranks)
    )
    expected = brute_force(m, placement, states) if stages <= len(m.layers) else None
    if expected is None:
        with pytest.raises(InputError):
            least_bottleneck(m, placement, states, solver=True)
    else:
        found = least_bottleneck(m, placement, states, solver=True, workers=1)
        assert found.proved
        stage_of = tuple(next(s for s, on in enumerate(found.layers) if i in on) for i in range(len(m.layers)))
        assert judged(m, stage_of, placement, states) == expected


def test_a_thousand_layers_on_64_stages_take_a_moment() -> None:
    """A look at a bottleneck takes a few calls for each stage, and as many of them whatever the number of layers.

    20 looks by doubling and bisection come to 6760 calls.
    """
    layers = tuple(Layer(f"l{i}", 1 + i * 7919 % 20_000, 1 + i * 104_729 % 20_000, output=5) for i in range(1000))
    model, states, calls = Model("m", layers), tuple(((1,),) for _ in range(64)), 0

    def count(frame: FrameType, event: str, _: object) -> None:
        nonlocal calls
        calls += event == "call" and str(frame.f_globals.get("__name__")).startswith("schedverify.")

    before = sys.getprofile()
    sys.setprofile(count)
    try:
        found = least_bottleneck(model, tuple(range(64)), states)
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
        states = (((2,),), ((1,),))
        with pytest.raises(InfeasibleError) as caught:
            least_bottleneck(
                Model("m", layers, edges=edges, devices=Devices(memory=(20, 9))), (0, 1), states, solver=solver
            )
        lacking = int(re.search(r"it takes (\d+) bytes more", str(caught.value))[1])  # type: ignore[index]
        for more, fits in ((lacking - 1, False), (lacking, True)):
            model = Model("m", layers, edges=edges, devices=Devices(memory=(20 + more, 9 + more)))
            with nullcontext() if fits else pytest.raises(InfeasibleError):
                least_bottleneck(model, (0, 1), states, solver=solver)
        assert re.search(r"holds (\d+) on rank (\d), which has (20|9)", str(caught.value))

    def test_two_stages_of_a_rank_hold_what_both_do(self) -> None:
        layers = tuple(Layer(f"l{i}", 1, 1, parameters=10) for i in range(4))
        with pytest.raises(InfeasibleError, match=r"it takes 5 bytes more .* holds 20 on rank \d, which has 15 "):
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
