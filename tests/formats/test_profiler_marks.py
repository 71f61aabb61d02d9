"""Marks of the runtime: the wait told from the work, steps of training, loops without stages, work of a device."""

from __future__ import annotations

import json
from typing import Any

import pytest

from schedverify.core.errors import InputError
from schedverify.formats.json_toml import parse_json
from schedverify.formats.profiler_marks import Mark, marked_rank
from schedverify.formats.profiler_trace import kept_of, profiler_trace_from
from support.profiler_files import event

US = 1000


def marks(*events: dict[str, Any]) -> dict[str, Mark]:
    return {mark.text: mark for step in ranked(*events).steps for mark in step.marks}


def ranked(*events: dict[str, Any]) -> Any:
    data = parse_json(json.dumps({"traceEvents": events}), kept=kept_of)
    return marked_rank(profiler_trace_from(data, "rank0.json"))


def worked(mark: Mark) -> tuple[int, int, bool]:
    return mark.begun // US, mark.ended // US, mark.told


def at(name: str, start: int, end: int, *more: object, **args: object) -> dict[str, Any]:
    return event(name, start * US, end * US, *more, **args)  # type: ignore[arg-type]


def test_a_wait_ends_where_a_receive_does_or_at_the_first_operator() -> None:
    found = marks(
        at("PP:1RECV_F0", 0, 2), at("gloo:recv", 1, 9), at("PP:1F0", 3, 20), at("aten::mm", 11, 19, "cpu_op"),
        at("PP:1SEND_F0", 20, 21), at("gloo:send", 20, 70),
        at("PP:1RECV_F1", 21, 22), at("PP:1F1", 22, 40), at("aten::mm", 30, 39, "cpu_op"),
        at("PP:1RECV_F2", 40, 41), at("PP:1F2", 41, 60),
        at("PP:1B0", 60, 80), at("aten::mm", 65, 79, "cpu_op"),
    )  # fmt: skip
    assert worked(found["1F0"]) == (9, 20, True), "behind the receive"
    assert worked(found["1F1"]) == (30, 40, True), "at the first operator"
    assert worked(found["1F2"]) == (41, 60, False), "not told"
    assert worked(found["1B0"]) == (60, 80, True), "it reads nothing from elsewhere"


@pytest.mark.parametrize("letter", ["B", "I"])
def test_a_backward_in_parts_waits_as_a_whole_one_does(letter: str) -> None:
    found = marks(at("PP:0RECV_B3", 0, 1), at(f"PP:0{letter}3", 2, 9), at("aten::mm", 5, 8, "cpu_op"))
    assert worked(found[f"0{letter}3"]) == (5, 9, True)


def test_a_loop_sends_within_its_marks_and_leaves_the_stage_away() -> None:
    found = marks(
        at("Forward 0", 0, 30), at("c10d::recv_", 1, 2, "cpu_op"), at("gloo:recv", 2, 11),
        at("aten::mm", 12, 20, "cpu_op"), at("c10d::send", 25, 26, "cpu_op"), at("gloo:send", 26, 90),
        at("Backward 0", 40, 60), at("aten::mm", 45, 59, "cpu_op"), at("Forward x", 70, 80),
    )  # fmt: skip
    assert found.keys() == {"F0", "B0"}
    assert worked(found["F0"]) == (11, 25, True)
    assert worked(found["B0"]) == (45, 60, True)


def test_marks_of_the_runtime_come_before_what_else_is_named_so() -> None:
    assert marks(at("PP:0F0", 0, 1), at("Forward 0", 2, 3)).keys() == {"0F0"}


def test_steps_begin_with_their_number_and_where_a_mark_comes_again() -> None:
    def ran(*starts: int) -> list[dict[str, Any]]:
        return [at("PP:0F0", start, start + 1) for start in starts]

    assert [step[:2] for step in ranked(*ran(1, 5, 9)).steps] == [(None, 0), (None, 1), (None, 2)]
    numbered = (at("ProfilerStep#3", 4, 20), at("ProfilerStep#4", 20, 30), *ran(1, 5, 9, 21, 31))
    assert [step[:2] for step in ranked(*numbered).steps] == [(3, 0), (3, 1), (4, 0)]


def test_the_work_of_a_device_counts_where_it_is() -> None:
    """The range of a forward on the device; a backward by the kernels that another thread launched."""
    found = marks(
        at("PP:0F0", 0, 2, **{"External id": 5}), at("PP:0F0", 10, 30, "gpu_user_annotation", 0, **{"External id": 5}),
        at("PP:0F0", 12, 90, "gpu_user_annotation", 20, **{"External id": 5}),
        at("gemm", 10, 30, "kernel", 0), at("PP:0SEND_F0", 2, 3),
        at("cudaLaunchKernel", 2, 3, "cuda_runtime", 8, correlation=7),
        at("ncclDevKernel_SendRecv", 30, 41, "kernel", 20, correlation=7),
        at("PP:0B0", 4, 9), at("PP:0B0", 50, 51, "gpu_user_annotation", 0),
        at("cudaLaunchKernel", 5, 6, "cuda_runtime", 8, correlation=8), at("gemm", 55, 80, "kernel", 0, correlation=8),
        at("cudaLaunchKernel", 6, 7, "cuda_runtime", 8, correlation=9),
        at("ncclDevKernel_AllReduce", 55, 99, "kernel", 21, correlation=9), at("PP:0REDUCE_GRAD", 9, 10),
    )  # fmt: skip
    assert worked(found["0F0"]) == (10, 30, True)
    assert worked(found["0SEND_F0"]) == (30, 41, True)
    assert worked(found["0B0"]) == (50, 80, True)
    assert [found[each].on_device for each in ("0F0", "0B0", "0REDUCE_GRAD")] == [True, True, False]


@pytest.mark.parametrize("name", ["PP:2X0", "PP:2F", "PP:2F0junk", "PP:F0", "PP:(0F0;1F0)OVERLAP_F_B x"])
def test_a_mark_that_is_no_action_is_told(name: str) -> None:
    with pytest.raises(InputError, match=r"rank0\.json: traceEvents\[1\]\.name: expected an action"):
        ranked(at("PP:0F0", 0, 1), at(name, 1, 2))


def test_a_trace_without_marks_says_who_marks_nothing() -> None:
    with pytest.raises(InputError, match="Schedule1F1B alone marks nothing"):
        ranked(at("aten::mm", 0, 1, "cpu_op"))
