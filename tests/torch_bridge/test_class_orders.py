"""What a class of torch runs: an order, or a loop written by hand; and what is asked of torch's lowering beside it."""

from __future__ import annotations

import inspect
import itertools
from pathlib import Path
from typing import Any

import pytest

from schedverify.core.errors import InputError, UnknownNameError, UnsupportedError

schedules = pytest.importorskip("torch.distributed.pipelining.schedules", reason="torch is not installed")

from schedverify.formats import load_with_layout  # noqa: E402
from schedverify.torch_bridge import (  # noqa: E402
    from_torch,
    live_schedule,
    torch_classes,
    torch_loop,
    torch_order,
    torch_problem,
    torch_schedule,
)
from schedverify.verifier.verification import verify  # noqa: E402

BY_HAND = ("1F1B", "GPipe", "ForwardOnly")
SHAPE = {"ranks": 2, "microbatches": 4}
HAS_BUDGET = "max_outstanding_sends" in inspect.signature(schedules.ScheduleInterleaved1F1B).parameters


def shape_of(name: str) -> dict[str, Any]:
    return SHAPE | {"virtual": 1 if name in BY_HAND else 2}


@pytest.mark.parametrize("name", BY_HAND)
def test_a_loop_written_by_hand_is_what_it_runs(name: str) -> None:
    loop = torch_loop(name, **SHAPE)
    assert torch_order(name, **SHAPE, lowered=True) == loop
    assert torch_order(name, **SHAPE) == loop.compute_only()
    assert verify(torch_order(name, **SHAPE), torch_problem(name, **SHAPE)).ok


def test_what_1f1b_publishes_is_another_order() -> None:
    published = torch_order("1F1B", **SHAPE, published=True)
    assert published == torch_schedule("1F1B", **SHAPE)
    assert published != torch_order("1F1B", **SHAPE)
    assert not verify(published, torch_problem("1F1B", **SHAPE)).ok


def test_forward_only_publishes_nothing() -> None:
    with pytest.raises(InputError, match="there is no order in it"):
        torch_order("ForwardOnly", **SHAPE, published=True)


def test_every_other_class_runs_what_it_publishes() -> None:
    others = set(torch_classes()) - set(BY_HAND)
    assert len(others) >= 5
    for name in others:
        shape = shape_of(name)
        for lowered in (False, True):
            made = torch_order(name, **shape, lowered=lowered)
            assert made == torch_order(name, **shape, lowered=lowered, published=True)
            assert made == torch_schedule(name, **shape, lowered=lowered)


def test_receives_are_deferred_where_that_is_asked() -> None:
    shape = {"ranks": 2, "microbatches": 3, "virtual": 2, "lowered": True}
    deferred = torch_order("ZBVZeroBubble", **shape, defer_receives=True)
    assert deferred == torch_schedule("ZBVZeroBubble", **shape, defer_receives=True)
    assert deferred != torch_order("ZBVZeroBubble", **shape)


@pytest.mark.parametrize("option", [{"defer_receives": True}, {"max_outstanding_sends": 2}])
@pytest.mark.parametrize(
    ("name", "more", "said"),
    [
        ("GPipe", {"lowered": True}, "ScheduleGPipe runs a loop written by hand, which torch does not lower"),
        ("GPipe", {"published": True}, "it is of the order with communication"),
        ("LoopedBFS", {}, "it is of the order with communication"),
    ],
)
def test_what_has_no_effect_is_refused(name: str, more: dict[str, Any], said: str, option: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=said) as refused:
        torch_order(name, **SHAPE, **more, **option)
    assert refused.value.faults[0].key == next(iter(option))


@pytest.mark.skipif(HAS_BUDGET, reason="this torch has a budget of sends")
def test_a_budget_that_torch_does_not_have() -> None:
    with pytest.raises(UnsupportedError, match=r"max_outstanding_sends: torch 2\..* has no .* take torch 2\.15"):
        torch_order("Interleaved1F1B", **shape_of("Interleaved1F1B"), lowered=True, max_outstanding_sends=1)


@pytest.mark.skipif(not HAS_BUDGET, reason="torch has a budget of sends since 2.15")
def test_a_budget_that_torch_keeps() -> None:
    shape = {"ranks": 2, "microbatches": 4, "virtual": 2, "lowered": True}
    tight = torch_order("Interleaved1F1B", **shape, max_outstanding_sends=1)
    assert tight != torch_order("Interleaved1F1B", **shape)
    problem = torch_problem("Interleaved1F1B", ranks=2, microbatches=4, virtual=2, outstanding_sends=1)
    assert verify(tight, problem, select=["SV404"]).ok


def test_an_unknown_class_and_a_shape_that_is_none() -> None:
    with pytest.raises(UnknownNameError, match="did you mean '1F1B'"):
        torch_order("1F1C", **SHAPE)
    with pytest.raises(InputError, match="ZBV requires exactly 2 stages per rank"):
        torch_order("ZBVZeroBubble", **SHAPE)


@pytest.mark.parametrize("lowered", [False, True])
def test_what_torch_prints_is_read_again(lowered: bool, tmp_path: Path) -> None:
    """Every class on some shapes, with idle cells and communication, and with the mark of the step that failed."""
    count = 0
    for name, ranks, microbatches in itertools.product(torch_classes(), (2, 3, 4), (4, 6, 12)):
        shape = {"ranks": ranks, "microbatches": microbatches, "virtual": 1 if name in BY_HAND else 2}
        try:
            live = live_schedule(name, **shape)
            wanted = from_torch(live, lowered=lowered)
        except InputError:
            continue
        order = live.pipeline_order_with_comms if lowered else live.pipeline_order
        path = tmp_path / "printed.txt"
        for mark in (None, 3):
            path.write_text(schedules._format_pipeline_order(order, error_step_number=mark), encoding="utf-8")
            schedule, layout = load_with_layout(path)
            assert schedule == wanted
            assert ("ERROR HERE" in path.read_text(encoding="utf-8")) is (mark is not None)
            idle = [[column for column, action in enumerate(row) if action is None] for row in order.values()]
            last = [max(column for column, action in enumerate(row) if action is not None) for row in order.values()]
            assert [list(row) for row in layout.idle] == [
                [column for column in row if column < end] for row, end in zip(idle, last, strict=True)
            ]
        count += 1
    assert count >= (36 if lowered else 48)
