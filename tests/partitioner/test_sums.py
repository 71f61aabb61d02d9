"""What is too much to count: a power of two and one more, with its key."""

from __future__ import annotations

import pytest

from schedverify.core.errors import UnsupportedError
from schedverify.core.model import Devices, Layer, Model
from schedverify.partitioner.sums import MOST, check_sums, faults_of_sums


def keys(*layers: Layer, stages: int = 1, microbatches: int = 1, **devices: object) -> list[str]:
    model = Model("m", layers, devices=Devices(**devices))  # type: ignore[arg-type]
    return [fault.key for fault in faults_of_sums(model, lambda i, name: f"{i}.{name}", stages, microbatches)]


def test_ticks_of_all_steps_are_counted() -> None:
    assert not keys(Layer("a", MOST // 2), Layer("b", 0, MOST // 2))
    assert keys(Layer("a", MOST // 2), Layer("b", 1, MOST // 2)) == ["0.forward"]
    assert keys(Layer("a", 0, 1, MOST - 1, 2)) == ["0.backward_input"]
    assert not keys(Layer("a", MOST // 8), microbatches=4, slowness=(2,))
    assert keys(Layer("a", MOST // 8), Layer("b", 1), microbatches=4, slowness=(1, 2)) == ["0.forward"]


def test_transfers_are_counted_where_there_is_a_boundary() -> None:
    assert not keys(Layer("a", 1), latency=MOST)
    assert keys(Layer("a", 1), Layer("b", 1), stages=2, latency=MOST) == ["devices.latency"]
    large = Layer("a", 1, output=MOST // 4)
    assert not keys(large, Layer("b", 1), stages=2)
    assert keys(large, Layer("b", MOST // 2), stages=2, bandwidth=1) == ["devices.bandwidth"]


def test_bytes_are_counted() -> None:
    assert not keys(Layer("a", activation=MOST // 4), microbatches=4)
    assert keys(Layer("a", activation=MOST // 4), Layer("b", parameters=1), microbatches=4) == ["0.activation"]
    assert keys(Layer("a", state=MOST), Layer("b", output=1)) == ["0.state"]


def test_the_error_says_what_to_do() -> None:
    model = Model("m", (Layer("a", MOST), Layer("b", 1, parameters=MOST + 1)))
    with pytest.raises(UnsupportedError) as caught:
        check_sums(model, microbatches=2)
    lines = str(caught.value).splitlines()
    assert lines == [
        "layer: all steps together take more than 2^60 ticks in 2 micro-batches, most of them 'a' (use a coarser tick)",
        "layer: all layers together hold and send more than 2^60 bytes in 2 micro-batches, most of them 'b' "
        "(use a coarser unit for every size)",
    ]
