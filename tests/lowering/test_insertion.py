"""Lowering: what a pass adds, that it adds nothing else, and that nothing which it makes can hang."""

from __future__ import annotations

import itertools
from collections import Counter

import pytest

from oracle.lowered_times import Run
from schedverify.core.discipline import Discipline
from schedverify.core.errors import ScheduleError
from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.generators import families, generate
from schedverify.lowering import add_communication
from schedverify.verifier.verification import verify
from support.random_schedules import base

DISCIPLINES = tuple(Discipline)


def compute_only(schedule: Schedule) -> Schedule:
    return Schedule.of(
        [step for step in schedule.steps(r) if step.ops[0].kind <= Kind.W] for r in range(schedule.ranks)
    )


def messages(schedule: Schedule) -> Counter[str]:
    return Counter(
        f"{rank}: {op}" for rank in range(schedule.ranks) for step in schedule.steps(rank) for op in step.ops
        if op.kind.is_transfer
    )  # fmt: skip


def test_a_chain() -> None:
    problem = Problem.chain(ranks=3, microbatches=2, forward=1, backward=2)
    lowered = add_communication(generate("1f1b", problem), problem)
    assert str(lowered).splitlines() == [
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1",
        "1RECV_F0 1F0 1SEND_F0 1RECV_F1 1F1 1SEND_F1 1RECV_B0 1B0 1SEND_B0 1RECV_B1 1B1 1SEND_B1",
        "2RECV_F0 2F0 2RECV_F1 2B0 2SEND_B0 2F1 2B1 2SEND_B1",
    ]


def test_stages_on_one_rank_need_no_message() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, stages=4, placement=[0, 0, 1, 1], form="inference")
    lowered = add_communication(Schedule.parse("0F0 1F0\n2F0 3F0"), problem)
    assert str(lowered) == "0F0 1F0 1SEND_F0\n2RECV_F0 2F0 3F0"


def test_a_stage_on_several_ranks_sends_and_receives_on_its_first() -> None:
    problem = Problem.chain(ranks=3, microbatches=1, stages=3, placement=[0, [2, 1], 0], forward=1, backward=1)
    order = Schedule.parse("0F0 2F0 2B0 0B0\n1F0 1B0\n1F0 1B0")
    assert str(add_communication(order, problem)).splitlines() == [
        "0F0 0SEND_F0 2RECV_F0 2F0 2B0 2SEND_B0 0RECV_B0 0B0",
        "1F0 1B0",
        "1RECV_F0 1F0 1SEND_F0 1RECV_B0 1B0 1SEND_B0",
    ]


def test_a_peer_is_named_only_where_it_is_not_the_only_one() -> None:
    edges = [[0, 2], [1, 2], [2, 3]]
    problem = Problem.chain(ranks=4, microbatches=1, edges=edges, forward=1, backward=1)
    order = Schedule.parse("0F0 0B0\n1F0 1B0\n2F0 2B0\n3F0 3B0")
    assert str(add_communication(order, problem)).splitlines() == [
        "0F0 0SEND_F0 0RECV_B0 0B0",
        "1F0 1SEND_F0 1RECV_B0 1B0",
        "2RECV_F0<1 2RECV_F0<0 2F0 2SEND_F0 2RECV_B0 2B0 2SEND_B0>0 2SEND_B0>1",
        "3RECV_F0 3F0 3B0 3SEND_B0",
    ]


def test_an_overlapped_step_sends_both_that_it_makes() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, stages=3, placement=[0, 1, 0], forward=1, backward=2)
    order = Schedule.parse("0F0 0F1 2F0 2B0 2F1 2B1 0B0 0B1\n1F0 (1F1;1B0)OVERLAP_F_B 1B1")
    assert str(add_communication(order, problem)).splitlines()[1] == (
        "1RECV_F0 1F0 1SEND_F0 1RECV_F1 1RECV_B0 (1F1;1B0)OVERLAP_F_B 1SEND_F1 1SEND_B0 1RECV_B1 1B1 1SEND_B1"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0F0 0SEND_F0 0B0\n1F0 1B0", "0SEND_F0 stands at rank 0, position 1: the schedule is lowered already"),
        ("0F0 0B0\n1UNSHARD 1F0 1B0", "1UNSHARD stands at rank 1, position 0: the schedule is lowered already"),
        ("0F0 0B0\n1F0", "stage 1 lacks operations of micro-batch 0"),
        ("0B0 0F0\n1F0 1B0", "rank 0 waits at position 0 for ever"),
        ("0F0 0B0\n1F0 1B0\n-", "the schedule has 3 ranks, the problem 2"),
    ],
)
def test_what_is_no_runnable_compute_order_is_refused(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        add_communication(Schedule.parse(text), Problem.chain(ranks=2, microbatches=1))


def test_sends_stand_right_behind_their_step() -> None:
    for family in families():
        problem = family.problem(ranks=4, microbatches=8)
        for row in add_communication(family.generate(problem), problem).strings():
            for before, step in itertools.pairwise(row):
                if "SEND" in step:
                    made_by = [step.replace("SEND_B", kind) for kind in "BI"] + [step.replace("SEND_F", "F")]
                    assert before in made_by, (family.name, before, step)


def test_nothing_else_is_added() -> None:
    for number in range(500):
        found = base(number)
        order = Schedule.of(found.rows)
        lowered = add_communication(order, found.problem)
        assert compute_only(lowered) == order, f"base {number}"
        assert set(messages(lowered).values()) <= {1}
        assert "[" not in str(lowered)


@pytest.mark.parametrize("discipline", DISCIPLINES)
def test_nothing_hangs_in_the_oracle(discipline: str) -> None:
    for number in range(100):
        found = base(number)
        lowered = add_communication(Schedule.of(found.rows), found.problem)
        assert not Run(lowered.strings(), found.data, discipline).stuck, f"base {number}"


@pytest.mark.parametrize("chunk", range(4))
def test_two_thousand_orders_are_proved_under_every_discipline(chunk: int) -> None:
    """What is proved under ``block`` is so under all: tested for itself elsewhere, and here at times."""
    for number in range(chunk * 500, chunk * 500 + 500):
        found = base(number)
        lowered = add_communication(Schedule.of(found.rows), found.problem)
        for discipline in Discipline if number % 50 == 0 else (Discipline.BLOCK,):
            report = verify(lowered, found.problem, select=["SV1", "SV3"], discipline=discipline)
            assert report.ok, f"base {number} under {discipline}: {report.violations}"
        if report.communication is not None:
            assert report.communication.strictest is Discipline.BLOCK
