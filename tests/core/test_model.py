"""Models: their layers, what feeds what, and what a partition must keep to."""

from __future__ import annotations

from typing import Any

import pytest

from schedverify.core.errors import InputError
from schedverify.core.model import Devices, Layer, Model, PartitionConstraints, even_parts

A, B, C = Layer("a", forward=2, backward=3, parameters=5, state=7), Layer("b"), Layer("c")


def test_a_layer_sums_its_work_and_what_stays() -> None:
    assert (A.work, A.resident) == (5, 12)


def test_edges_are_a_chain_where_none_are_given() -> None:
    assert Model("m", (A, B, C)).all_edges == ((0, 1), (1, 2))
    assert Model("m", (A, B, C)).chain
    assert Model("m", (A, B, C), edges=((1, 2), (0, 1))).chain
    branching = Model("m", (A, B, C), edges=((0, 1), (0, 2)))
    assert not branching.chain
    assert branching.all_edges == ((0, 1), (0, 2))


def test_a_model_is_split_where_every_layer_was_measured_in_two_parts() -> None:
    parts = Layer("p", backward_input=1, backward_weight=2)
    assert Model("m", (parts,)).split
    assert not Model("m", (parts, A)).split


@pytest.mark.parametrize(
    ("layers", "edges", "told"),
    [
        ((), None, ["layer: the model has no layer (write [[layer]] and its keys below)"]),
        (
            (A, B, A),
            None,
            ["layer[2].name: layer 2 is called 'a', and so is layer 0 (each layer has a name of its own)"],
        ),
        (
            (A, B),
            ((0, 1), (1, 0), (0, 2)),
            [
                "edges[1]: layer 1 cannot feed layer 0 (an edge goes from a layer to one that stands behind it)",
                "edges[2]: layer 0 cannot feed layer 2 (an edge goes from a layer to one that stands behind it)",
            ],
        ),
    ],
)
def test_faults_of_a_model_are_told(
    layers: tuple[Layer, ...], edges: tuple[tuple[int, int], ...] | None, told: list[str]
) -> None:
    with pytest.raises(InputError) as caught:
        Model("m", layers, edges=edges)
    assert [*map(str, caught.value.faults)] == told


@pytest.mark.parametrize(
    ("constraints", "allowed"),
    [
        (PartitionConstraints(), True),
        (PartitionConstraints(pinned=((0, 0), (3, -1), (3, 1))), True),
        (PartitionConstraints(pinned=((0, -1),)), False),
        (PartitionConstraints(together=((0, 1, 2),)), True),
        (PartitionConstraints(together=((2, 3),)), False),
        (PartitionConstraints(alone=(3,)), True),
        (PartitionConstraints(alone=(3, 0)), False),
    ],
)
def test_constraints_allow_a_partition_or_not(constraints: PartitionConstraints, allowed: bool) -> None:
    assert constraints.allow(((0, 1, 2), (3,))) is allowed


def test_even_parts_differ_by_at_most_one() -> None:
    assert even_parts(7, 3) == (range(3), range(3, 5), range(5, 7))
    assert even_parts(4, 4) == (range(1), range(1, 2), range(2, 3), range(3, 4))
    with pytest.raises(InputError, match="2 layers cannot fill 3 stages"):
        even_parts(2, 3)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"slowness": ()}, r"devices.slowness: no value \(one for all ranks, or one for each\)"),
        ({"slowness": (1, 0)}, r"devices.slowness: 0 is too small \(at least 1\)"),
        ({"memory": (5, -1)}, r"devices.memory: -1 is too small \(at least 0\)"),
        ({"latency": -1}, "devices.latency: -1 is too small"),
        ({"bandwidth": 0}, r"devices.bandwidth: 0 is too small \(at least 1\)"),
        ({"bandwidth": 0, "slowness": ()}, "devices.bandwidth.*\\n.*devices.slowness"),
    ],
)
def test_devices_that_cannot_be_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        Devices(**fields)
