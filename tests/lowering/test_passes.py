"""Further passes over lowered schedules: what they move, and that what was safe stays so."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable

import pytest

from schedverify.core.discipline import Discipline
from schedverify.core.errors import InputError, ScheduleError
from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.generators import families, generate
from schedverify.lowering import (
    add_communication,
    add_late_waits,
    add_reduction,
    add_reduction_waits,
    add_sharding,
    add_waits,
    defer_receives,
    group_opposite,
    timed_lowerings,
)
from schedverify.lowering.candidates import safe_lowerings
from schedverify.simulator.engine import simulate
from schedverify.simulator.p2p_program import LoweredProgram, match
from schedverify.verifier.verification import verify
from support.random_schedules import base

Pass = Callable[[Schedule, Problem, Discipline], Schedule]

PASSES: dict[str, Pass] = {
    "defer": defer_receives,
    "group": lambda schedule, problem, _: group_opposite(schedule, problem),
    "defer and group": lambda s, problem, name: group_opposite(defer_receives(s, problem, name), problem),
    "group and defer": lambda s, problem, name: defer_receives(group_opposite(s, problem), problem, name),
}


def operations(schedule: Schedule, *, compute: bool) -> list[list[str]]:
    """Return by rank the operations that compute, or those that do not, in order."""
    rows = ([op for step in schedule.steps(rank) for op in step.ops] for rank in range(schedule.ranks))
    return [[str(op) for op in row if op.kind.is_compute == compute] for row in rows]


def in_order(schedule: Schedule, problem: Problem) -> bool:
    """Whether the n-th send of each channel is for the n-th receive (SV302)."""
    transfers = match(LoweredProgram(schedule, problem), Discipline.EDGE)
    return bool((transfers.made == transfers.read).all())


@pytest.mark.parametrize("name", PASSES)
def test_a_pass_keeps_the_compute_order_and_the_messages_and_hangs_nothing(name: str) -> None:
    for number in range(150):
        found = base(number)
        lowered = add_communication(Schedule.of(found.rows), found.problem)
        for discipline in Discipline:
            passed = PASSES[name](lowered, found.problem, discipline)
            assert operations(passed, compute=True) == operations(lowered, compute=True), f"base {number}"
            before, after = (operations(schedule, compute=False) for schedule in (lowered, passed))
            assert list(map(Counter, before)) == list(map(Counter, after)), f"base {number}"
            assert in_order(passed, found.problem), f"base {number}"
            simulate(passed, found.problem, discipline=discipline)
            if number % 10 == 0:
                report = verify(passed, found.problem, select=["SV1", "SV3"], discipline=discipline)
                assert report.ok, f"base {number} under {discipline}: {report.violations}"


def test_a_receive_goes_to_the_step_that_reads_it_but_past_no_send_to_its_peer() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, forward=1, backward=2)
    early = Schedule.parse(
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0RECV_B1 0B0 0B1\n1RECV_F0 1RECV_F1 1F0 1F1 1B0 1SEND_B0 1B1 1SEND_B1"
    )
    assert str(defer_receives(early, problem)).splitlines() == [
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1",
        "1RECV_F0 1F0 1RECV_F1 1F1 1B0 1SEND_B0 1B1 1SEND_B1",
    ]
    sooner = Schedule.parse(
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0RECV_B1 0B0 0B1\n1RECV_F0 1RECV_F1 1F0 1B0 1SEND_B0 1F1 1B1 1SEND_B1"
    )
    assert str(defer_receives(sooner, problem)).splitlines()[1] == (
        "1RECV_F0 1F0 1B0 1RECV_F1 1SEND_B0 1F1 1B1 1SEND_B1"
    )


def test_under_rank_a_receive_passes_no_message_at_all() -> None:
    problem = Problem.chain(ranks=3, microbatches=2, forward=1, form="inference")
    text = "0F0 0SEND_F0 0F1 0SEND_F1\n1RECV_F0 1RECV_F1 1F0 1SEND_F0 1F1 1SEND_F1\n2RECV_F0 2F0 2RECV_F1 2F1"
    row = {name: str(defer_receives(Schedule.parse(text), problem, name)).splitlines()[1] for name in ("pair", "rank")}
    assert row == {
        "pair": "1RECV_F0 1F0 1SEND_F0 1RECV_F1 1F1 1SEND_F1",
        "rank": "1RECV_F0 1F0 1RECV_F1 1SEND_F0 1F1 1SEND_F1",
    }


def test_opposite_transfers_are_grouped_where_they_are_neighbours_on_both_ranks() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, edges=[[0, 2], [1, 3]], stages=4, placement=[0, 1, 1, 0],
                            forward=1, form="inference")  # fmt: skip
    same = Schedule.parse("0F0 0SEND_F0 3RECV_F0 3F0\n1F0 2RECV_F0 1SEND_F0 2F0")
    assert str(group_opposite(same, problem)) == "0F0 [0SEND_F0;3RECV_F0] 3F0\n1F0 [2RECV_F0;1SEND_F0] 2F0"
    apart = Schedule.parse("0F0 0SEND_F0 3RECV_F0 3F0\n1F0 2RECV_F0 2F0 1SEND_F0")
    assert group_opposite(apart, problem) == apart


def test_each_stage_is_gathered_around_its_uses() -> None:
    problem = Problem.chain(ranks=1, microbatches=1, virtual=3, forward=1, backward=2)
    order = Schedule.parse("0F0 1F0 2F0 2B0 1B0 0B0")
    assert str(add_sharding(order, problem)) == (
        "0UNSHARD 0F0 1UNSHARD 1F0 2UNSHARD 2F0 2B0 2RESHARD 1B0 1RESHARD 0B0 0RESHARD"
    )
    assert str(add_sharding(order, problem, most=2)) == (
        "0UNSHARD 0F0 1UNSHARD 1F0 0RESHARD 2UNSHARD 2F0 2B0 2RESHARD 1B0 1RESHARD 0UNSHARD 0B0 0RESHARD"
    )
    pair = Schedule.parse("0F0 (1F0;0B0)OVERLAP_F_B 1B0")
    with pytest.raises(ScheduleError, match="a step of rank 0 uses 2 stages, 1 may be gathered at once"):
        add_sharding(pair, problem, most=1)


def test_no_more_stages_are_gathered_than_the_problem_allows_unless_it_is_said_how_many() -> None:
    problem = Problem.chain(ranks=1, microbatches=1, virtual=3, unsharded=2)
    order = Schedule.parse("0F0 1F0 2F0 2B0 1B0 0B0")
    sharded = add_sharding(order, problem)
    assert sharded == add_sharding(order, problem, most=2)
    assert sharded != add_sharding(order, problem, most=3)
    assert verify(sharded, problem, select=["SV305", "SV405"]).ok
    by_rank = Problem.chain(ranks=2, microbatches=1, virtual=2, unsharded=[1, 2])
    both = add_sharding(generate("gpipe", by_rank), by_rank)
    assert [[text for text in row if "SHARD" in text].count("0UNSHARD") for row in both.strings()] == [2, 0]
    assert verify(both, by_rank, select=["SV305", "SV405"]).ok
    with pytest.raises(ScheduleError, match="uses 2 stages, 1 may be gathered at once"):
        add_sharding(
            Schedule.parse("0F0 (1F0;0B0)OVERLAP_F_B 1B0"),
            Problem.chain(ranks=1, microbatches=1, virtual=2, unsharded=1),
        )


def test_gradients_are_reduced_once_behind_the_last_backward() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, placement=[0, 0], form="split")
    order = Schedule.parse("0F0 0F1 1F0 1I0 1W0 0B0 1F1 1B1 0I1 0W1\n-")
    reduced = add_reduction(order, problem)
    assert str(reduced) == "0F0 0F1 1F0 1I0 1W0 0B0 1F1 1B1 1REDUCE_GRAD 0I1 0W1 0REDUCE_GRAD\n-"
    pair = Schedule.parse("0F0 1F0 0B0 (0F1;1B0)OVERLAP_F_B 0B1\n-")
    assert str(add_reduction(pair, problem)) == "0F0 1F0 0B0 (0F1;1B0)OVERLAP_F_B 1REDUCE_GRAD 0B1 0REDUCE_GRAD\n-"
    with pytest.raises(InputError, match="rank 0, position 8: REDUCE_GRAD stands there already"):
        add_reduction(reduced, problem)
    with pytest.raises(InputError, match="rows"):
        add_reduction(Schedule.parse("0F0 0B0"), problem)


def test_a_copy_of_the_model_that_no_microbatch_goes_through_is_reduced_too() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, replicas=2, placement=[[0, 1], [1, 0]], forward=1, backward=2)
    schedule = add_reduction(add_communication(Schedule.parse("0F0 0B0\n1F0 1B0"), problem), problem)
    assert [[text for text in row if "REDUCE" in text] for row in schedule.strings()] == [
        ["0REDUCE_GRAD", "3REDUCE_GRAD"], ["1REDUCE_GRAD", "2REDUCE_GRAD"],
    ]  # fmt: skip
    assert verify(schedule, problem).ok


def test_nothing_is_reduced_in_inference() -> None:
    problem = Problem.chain(ranks=1, microbatches=1, form="inference")
    order = Schedule.parse("0F0")
    assert add_reduction(order, problem) == order


def test_parameters_are_used_only_while_they_are_gathered_and_reduced_once() -> None:
    for number in range(200):
        found = base(number)
        order = Schedule.of(found.rows)
        schedule = add_sharding(add_reduction(add_communication(order, found.problem), found.problem), found.problem)
        assert operations(schedule, compute=True) == operations(order, compute=True)
        for rank in range(schedule.ranks):
            trains = found.problem.form != "inference"
            check_parameters([op for step in schedule.steps(rank) for op in step.ops],
                             set(found.problem.stages_of[rank]) if trains else set())  # fmt: skip


def check_parameters(ops: list, stages: set[int]) -> None:
    gathered: set[int] = set()
    reduced: set[int] = set()
    for op in ops:
        if op.kind is Kind.UNSHARD:
            assert op.stage not in gathered
            gathered.add(op.stage)
        elif op.kind is Kind.RESHARD:
            gathered.remove(op.stage)
        elif op.kind is Kind.REDUCE_GRAD:
            assert op.stage not in reduced
            reduced.add(op.stage)
        elif op.kind.is_compute:
            assert op.stage in gathered
            assert op.stage not in reduced or op.kind in (Kind.F, Kind.I)
    assert not gathered
    assert reduced == stages


@pytest.mark.parametrize("discipline", Discipline)
def test_the_best_of_the_safe_orders_comes_first(discipline: str) -> None:
    for family in families():
        problem = family.problem(ranks=3, microbatches=6)
        order = family.generate(problem)
        found = timed_lowerings(simulate(order, problem), discipline)
        makespans = [timeline.makespan for timeline in found]
        assert makespans == sorted(makespans), family.name
        assert makespans[0] >= simulate(order, problem).makespan


def test_blocking_transfers_gain_by_their_place() -> None:
    problem = Problem.chain(ranks=4, microbatches=8, forward=10, backward=20, latency=1)
    order = generate("1f1b", problem)
    default = simulate(add_communication(order, problem), problem, discipline="block").makespan
    assert timed_lowerings(simulate(order, problem), "block")[0].makespan < default


def test_what_fits_the_capacity_comes_first() -> None:
    problem = Problem.chain(ranks=4, microbatches=6, forward=2, backward=4, activation=10, bytes=30, latency=1)
    order = generate("1f1b", problem)
    lowerings = list(safe_lowerings(order, simulate(order, problem), "pair"))
    default, *others = [simulate(lowered, problem).peak_memory for lowered in lowerings]
    least = min(others, key=sum)
    assert sum(least) < sum(default)
    tight = Problem.of(problem.to_dict() | {"memory": {"activation": 10, "capacity": least}})
    assert timed_lowerings(simulate(order, problem), "pair")[0].schedule == lowerings[0]
    assert timed_lowerings(simulate(order, tight), "pair")[0].peak_memory == least


# Waits


def test_waits_stand_right_behind_their_sends_and_groups() -> None:
    rows = [["0F0", "0SEND_F0>1", "0SEND_F0>2", "0RECV_B0<1"], ["[1RECV_F0;1SEND_B1;1SEND_B2]", "1F0"], []]
    assert add_waits(Schedule.of(rows)).strings() == [
        ["0F0", "0SEND_F0>1", "0WAIT_SEND_F0>1", "0SEND_F0>2", "0WAIT_SEND_F0>2", "0RECV_B0<1"],
        ["[1RECV_F0;1SEND_B1;1SEND_B2]", "1WAIT_SEND_B1", "1WAIT_SEND_B2", "1F0"],
        [],
    ]
    with pytest.raises(InputError, match="rank 0, position 1: a WAIT_SEND stands there already"):
        add_waits(Schedule.of([["0F0", "0WAIT_SEND_F0"]]))


def test_where_sends_are_limited_every_lowering_waits_and_hangs_nowhere() -> None:
    waited = 0
    for number in range(60):
        found = base(number)
        problem = dataclasses.replace(found.problem, outstanding_sends=(1,) * found.problem.ranks, capacity=None)
        schedule = Schedule.of(found.rows)
        discipline = list(Discipline)[number % 6]
        default = add_communication(schedule, problem)
        for lowered in (add_waits(default), add_late_waits(default, problem, discipline)):
            report = verify(lowered, problem, select=["SV1", "SV2", "SV3", "SV404"], discipline=discipline)
            assert not report.violations, (number, str(lowered))
            assert report.communication is None or report.communication.strictest is Discipline.BLOCK
        for timeline in timed_lowerings(simulate(schedule, problem), discipline):
            text = str(timeline.schedule)
            report = verify(timeline.schedule, problem, select=["SV3", "SV404"], discipline=discipline)
            assert not report.violations, (number, text)
            assert text.count("WAIT_SEND") * 2 == text.count("SEND")
            waited += "WAIT_SEND" in text
    assert waited > 50


def test_where_no_waits_keep_the_limit_the_default_lowering_waits_behind_each_send() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, outstanding_sends=0)
    order = generate("1f1b", problem)
    (found,) = {str(timeline.schedule) for timeline in timed_lowerings(simulate(order, problem), "edge")}
    assert found == str(add_waits(add_communication(order, problem)))
    assert timed_lowerings(simulate(order, Problem.chain(ranks=2, microbatches=2)), "edge", waits=True)[
        0
    ].schedule == add_late_waits(add_communication(order, problem), Problem.chain(ranks=2, microbatches=2))


def test_each_reduction_is_waited_for_behind_it_or_before_the_next() -> None:
    reduced = Schedule.parse("0F0 1F0 1B0 1REDUCE_GRAD 0B0 0REDUCE_GRAD 0RESHARD\n-")
    assert str(add_reduction_waits(reduced)) == (
        "0F0 1F0 1B0 1REDUCE_GRAD 1WAIT_REDUCE_GRAD 0B0 0REDUCE_GRAD 0WAIT_REDUCE_GRAD 0RESHARD\n-"
    )
    late = add_reduction_waits(reduced, late=True)
    assert str(late) == "0F0 1F0 1B0 1REDUCE_GRAD 0B0 1WAIT_REDUCE_GRAD 0REDUCE_GRAD 0RESHARD 0WAIT_REDUCE_GRAD\n-"
    with pytest.raises(InputError, match="rank 0, position 5: WAIT_REDUCE_GRAD stands there already"):
        add_reduction_waits(late)


def test_passes_leave_waits_behind_their_sends() -> None:
    for number in range(40):
        found = base(number)
        lowered = add_waits(add_communication(Schedule.of(found.rows), found.problem))
        assert defer_receives(lowered, found.problem) == lowered
        grouped = group_opposite(lowered, found.problem)
        for row in grouped.strings():
            sends = [
                (at, part) for at, text in enumerate(row) for part in text.strip("[]").split(";") if "SEND" in part
            ]
            for at, send in [(at, send) for at, send in sends if "WAIT" not in send]:
                assert send.replace("SEND", "WAIT_SEND") == row[at + 1]
