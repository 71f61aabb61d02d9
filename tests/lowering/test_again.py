"""What stays where a schedule is lowered again: computing, and when parameters are gathered and gradients reduced."""

from __future__ import annotations

import random

import pytest

from schedverify.core.errors import InputError, ScheduleError
from schedverify.core.op import Kind, Step
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.lowering import add_communication, add_reduction, add_sharding, keep_sharding, without
from schedverify.planner.proved_lowering import lower
from schedverify.verifier.verification import verify
from support.random_schedules import base

PROBLEM = Problem.chain(ranks=2, microbatches=1)
HANGS = "0UNSHARD 0F0 0RECV_B0 0SEND_F0 0B0 0REDUCE_GRAD 0RESHARD\n1RECV_F0 1F0 1B0 1SEND_B0 1WAIT_SEND_B0"


def test_the_example() -> None:
    assert str(lower(Schedule.parse(HANGS.replace(" 0REDUCE_GRAD", "")), PROBLEM, again=True)) == (
        "0UNSHARD 0F0 0SEND_F0 0RECV_B0 0B0 0RESHARD\n1RECV_F0 1F0 1B0 1SEND_B0"
    )


def test_what_is_begun_stays_early_and_a_wait_for_a_reduction_goes_behind_the_sends() -> None:
    source = Schedule.parse("0F0 1UNSHARD 0SEND_F0 1F0 0B0 0REDUCE_GRAD 0WAIT_REDUCE_GRAD 1RESHARD 0SEND_B0 1B0")
    fresh = Schedule.parse("0RECV_F0 0F0 0SEND_F0 1F0 [0RECV_B0;1SEND_F0] 0B0 0SEND_B0 1RECV_B0 1B0")
    assert str(keep_sharding(fresh, source)) == (
        "0RECV_F0 0F0 1UNSHARD 0SEND_F0 1F0 [0RECV_B0;1SEND_F0] 0B0 0REDUCE_GRAD 0SEND_B0 1RECV_B0 0WAIT_REDUCE_GRAD"
        " 1RESHARD 1B0"
    )


def test_a_rank_without_computing_keeps_what_stands_on_it() -> None:
    assert str(keep_sharding(Schedule.parse("-\n0F0"), Schedule.parse("0UNSHARD 1RESHARD\n0F0"))) == (
        "0UNSHARD 1RESHARD\n0F0"
    )


def test_overlapped_pairs_stay_whole() -> None:
    source = Schedule.parse("0UNSHARD (0F0;1B1)OVERLAP_F_B 0REDUCE_GRAD [0SEND_F0;1RECV_B0]")
    fresh = Schedule.parse("1RECV_B1 (0F0;1B1)OVERLAP_F_B 0SEND_F0")
    assert str(keep_sharding(fresh, source)) == "0UNSHARD 1RECV_B1 (0F0;1B1)OVERLAP_F_B 0REDUCE_GRAD 0SEND_F0"


def test_without_drops_the_kinds_that_are_named() -> None:
    left = without(Schedule.parse(HANGS), Kind.UNSHARD, Kind.RESHARD)
    assert str(left).splitlines()[0] == "0F0 0RECV_B0 0SEND_F0 0B0 0REDUCE_GRAD"


def test_other_rows_are_refused() -> None:
    with pytest.raises(InputError, match="rows"):
        keep_sharding(Schedule.parse("0F0"), Schedule.parse("0F0\n1F0"))


def test_communication_is_refused_unless_it_is_to_be_made_again() -> None:
    with pytest.raises(ScheduleError):
        lower(Schedule.parse(HANGS), PROBLEM)


def test_wrong_computing_and_wrong_sharding_are_told() -> None:
    with pytest.raises(ScheduleError, match="cannot run to its end"):
        lower(
            Schedule.parse("0F0 0B0 0F1 0B1 0SEND_F1\n1F0 1F1 1B0 1B1"),
            Problem.chain(ranks=2, microbatches=2),
            again=True,
        )
    with pytest.raises(ScheduleError, match="SV305"):
        lower(Schedule.parse(HANGS), PROBLEM, again=True)  # rank 1 reduces nothing


def spoiled(rng: random.Random, lowered: Schedule) -> Schedule:
    """Return a schedule whose communication is dropped, doubled and moved at random; all else keeps its order."""
    rows = []
    for rank in range(lowered.ranks):
        steps = list(lowered.steps(rank))
        talk = [step for step in steps if step.ops[0].kind.is_communication and rng.random() < 0.8]
        row: list[Step] = [step for step in steps if not step.ops[0].kind.is_communication]
        for step in [*talk, *rng.choices(talk, k=rng.randrange(3) if talk else 0)]:
            row.insert(rng.randint(0, len(row)), step)
        rows.append(row)
    return Schedule.of(rows)


def by_computing(schedule: Schedule) -> list[list[str]]:
    """Return the steps of each rank that are no communication, in their order."""
    return [
        [str(step) for step in schedule.steps(rank) if not step.ops[0].kind.is_communication]
        for rank in range(schedule.ranks)
    ]


@pytest.mark.parametrize("discipline", [None, "pair", "rank"])
def test_whatever_communication_stood_there_the_same_computing_is_proved(discipline: str | None) -> None:
    broken = 0
    for number in range(60):
        rng = random.Random(number)
        found = base(number)
        data = {key: value for key, value in found.data.items() if key not in ("limits", "memory")}
        problem, order = Problem.of(data), Schedule.of(found.rows)
        whole = add_reduction(add_sharding(add_communication(order, problem), problem), problem)
        given = spoiled(rng, whole)
        broken += not verify(given, problem).ok
        lowered = lower(given, problem, discipline=discipline, again=True)
        assert verify(lowered, problem, discipline=discipline or "block").ok, f"base {number}"
        assert by_computing(lowered) == by_computing(given), f"base {number}"
    assert broken > 20
