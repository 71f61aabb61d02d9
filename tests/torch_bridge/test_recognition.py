"""An order is known by the class of torch that runs it."""

from __future__ import annotations

import pytest

import schedverify as sv
from schedverify.core.errors import UnsupportedError

pytest.importorskip("torch", reason="torch is not installed")

from schedverify.torch_bridge import class_that_runs, recognition, torch_order, torch_problem


@pytest.mark.parametrize("name", ["InterleavedZeroBubble", "DualPipeV", "GPipe"])
def test_an_order_is_known_by_the_class_that_runs_it(name: str) -> None:
    shape = {"ranks": 2, "microbatches": 4, "virtual": 1 if name == "GPipe" else 2}
    problem = torch_problem(name, **shape)
    assert class_that_runs(torch_order(name, **shape), problem) == name
    assert class_that_runs(sv.Schedule.parse("0F0 0B0\n-"), problem) == ""


def test_without_torch_no_order_has_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing() -> None:
        raise UnsupportedError("torch is not installed")

    monkeypatch.setattr(recognition, "torch_classes", missing)
    assert class_that_runs(sv.Schedule.parse("0F0 0B0"), sv.Problem.chain(ranks=1, microbatches=1)) == ""
