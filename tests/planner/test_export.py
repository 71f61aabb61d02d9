"""What leaves for PyTorch's runtime is what the verifier has passed, with one reduction for each stage."""

from __future__ import annotations

import pytest

from schedverify.core.errors import ScheduleError, UnknownNameError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.generators import generate
from schedverify.lowering import add_reduction
from schedverify.planner.export import for_torch
from schedverify.planner.proved_lowering import lower

PROBLEM = Problem.chain(ranks=2, microbatches=2)
ORDER = generate("1f1b", PROBLEM)


def test_an_order_without_communication_leaves_as_it_is() -> None:
    assert for_torch(ORDER, PROBLEM) == ORDER
    assert for_torch(ORDER, PROBLEM, comms=False) == ORDER


def test_each_stage_gets_its_reduction_once() -> None:
    lowered = lower(ORDER, PROBLEM)
    exported = for_torch(lowered, PROBLEM)
    assert [row.count(f"{rank}REDUCE_GRAD") for rank, row in enumerate(exported.strings())] == [1, 1]
    assert exported == add_reduction(lowered, PROBLEM)
    assert for_torch(exported, PROBLEM) == exported


def test_communication_stays_behind_where_pytorch_adds_it_itself() -> None:
    assert for_torch(lower(ORDER, PROBLEM), PROBLEM, comms=False) == ORDER


def test_what_the_verifier_refuses_does_not_leave() -> None:
    late = Schedule.parse("0F0 0F1 0B0 0B1\n1F0 1B0 1B1 1F1")
    with pytest.raises(ScheduleError, match=r"(?s)^SV201.*--profile none writes it as it stands$"):
        for_torch(late, PROBLEM)
    with pytest.raises(UnknownNameError, match="megatron"):
        for_torch(ORDER, PROBLEM, profile="megatron")


def test_what_torchtitan_cannot_run_is_refused_for_it_alone() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, placement=[0, 0, 1, 1], stages=4)
    order = generate("gpipe", problem)
    assert for_torch(order, problem) == order
    with pytest.raises(ScheduleError, match=r"^SV711"):
        for_torch(order, problem, profile="torchtitan")


def test_of_many_violations_the_first_ten_are_listed() -> None:
    """Every other micro-batch is missing: 29 runs of F, and as many of B."""
    problem = Problem.chain(ranks=1, microbatches=58)
    with pytest.raises(ScheduleError) as refused:
        for_torch(Schedule.parse(" ".join(f"0F{m} 0B{m}" for m in range(0, 58, 2))), problem)
    *lines, more, hint = str(refused.value).splitlines()
    assert more == "and 48 more"
    assert hint.startswith("PyTorch's runtime would fail")
    assert len(lines) == 10
    assert all(line.startswith("SV103 ") for line in lines)
