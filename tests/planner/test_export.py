"""What leaves for PyTorch's runtime is what the verifier has passed, with one reduction for each stage."""

from __future__ import annotations

import pytest

from schedverify.core.errors import ScheduleError, UnknownNameError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.generators import generate
from schedverify.lowering import add_reduction
from schedverify.planner.export import for_torch, profile_for
from schedverify.planner.proved_lowering import lower
from schedverify.verifier.verification import verify

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


def test_since_2_15_each_send_and_each_reduction_gets_its_wait() -> None:
    lowered = lower(ORDER, PROBLEM)
    exported = for_torch(lowered, PROBLEM, profile="torch-2.15")
    assert str(exported).splitlines() == [
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1 0REDUCE_GRAD 0WAIT_REDUCE_GRAD "
        "0WAIT_SEND_F0 0WAIT_SEND_F1",
        "1RECV_F0 1F0 1RECV_F1 1B0 1SEND_B0 1F1 1B1 1REDUCE_GRAD 1WAIT_REDUCE_GRAD 1SEND_B1 "
        "1WAIT_SEND_B0 1WAIT_SEND_B1",
    ]
    assert for_torch(exported, PROBLEM, profile="torch-2.15") == exported
    assert for_torch(ORDER, PROBLEM, profile="torch-2.15") == ORDER
    assert for_torch(exported, PROBLEM, profile="torch-2.15", comms=False) == ORDER
    with pytest.raises(ScheduleError, match=r"^SV704 rank 0, position 9 \(0WAIT_REDUCE_GRAD\)"):
        for_torch(exported, PROBLEM)
    waiting = Schedule.of([[*row, f"{rank}WAIT_SEND_{'FB'[rank]}0"] for rank, row in enumerate(lowered.strings())])
    with pytest.raises(ScheduleError, match=r"^SV721 rank 0, position 3 \(0SEND_F1\): no 0WAIT_SEND_F1 follows"):
        for_torch(waiting, PROBLEM, profile="torch-2.15")


def test_what_hangs_with_one_queue_for_both_directions_alone_may_leave_for_2_15() -> None:
    crossed = Schedule.parse(
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1\n1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1"
    )
    with pytest.raises(ScheduleError, match=r"^SV304"):
        for_torch(crossed, PROBLEM)
    exported = for_torch(crossed, PROBLEM, profile="torch-2.15")
    assert verify(exported, PROBLEM, profile="torch-2.15").ok
    assert not verify(exported, PROBLEM, profile="torch-2.15", discipline="pair").ok


def test_the_profile_follows_the_waits() -> None:
    lowered = lower(ORDER, PROBLEM)
    assert profile_for(lowered) == "torch"
    assert profile_for(for_torch(lowered, PROBLEM, profile="torch-2.15")) == "torch-2.15"
