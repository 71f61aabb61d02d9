"""Timelines of lowered schedules: transfers queue as the discipline says, and the times are those of the oracle."""

from __future__ import annotations

import random

import pytest

from oracle.lowered_times import Run
from schedverify.core.discipline import Discipline
from schedverify.core.errors import InputError, ScheduleError
from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.core.timeline import Timeline
from schedverify.generators import generate
from schedverify.lowering import add_communication
from schedverify.simulator.engine import simulate
from schedverify.simulator.p2p_engine import run
from schedverify.simulator.p2p_program import LoweredProgram, match
from schedverify.verifier.verification import verify
from support.random_lowerings import lowered_rows, shuffled
from support.random_schedules import Base, Rows, base

Times = list[list[tuple[int, int]]]


def steps_of(timeline: Timeline, *, compute: bool) -> Times:
    """Return by rank start and end of the steps that compute, or of those that do not."""
    rows = zip(
        map(timeline.schedule.steps, range(timeline.schedule.ranks)), timeline.starts, timeline.ends, strict=True
    )
    return [
        [
            (start, end)
            for step, start, end in zip(steps, starts.tolist(), ends.tolist(), strict=True)
            if (step.ops[0].kind <= Kind.W) == compute
        ]
        for steps, starts, ends in rows
    ]


def times(text: str, problem: Problem, discipline: str = "pair", **options: int) -> Times:
    """Return by rank start and end of every step."""
    timeline = simulate(Schedule.parse(text), problem, discipline=discipline, **options)
    return [
        list(zip(*(ticks.tolist() for ticks in pair), strict=True))
        for pair in zip(timeline.starts, timeline.ends, strict=True)
    ]


def is_stuck_as_in_the_oracle(found: Base, rows: Rows, discipline: str, eager: int, story: str) -> bool:
    """Hold the timeline of rows against the oracle, and return whether there is none since they hang."""
    expected = Run(rows, found.data, discipline, eager)
    try:
        timeline = simulate(Schedule.of(rows), found.problem, discipline=discipline, eager_bytes=eager)
    except ScheduleError:
        assert expected.stuck, story
        return True
    assert not expected.stuck, story
    assert steps_of(timeline, compute=True) == expected.compute_times, story
    assert steps_of(timeline, compute=False) == expected.transfer_times, story
    return False


@pytest.mark.parametrize("discipline", Discipline)
def test_the_times_are_those_of_the_oracle(discipline: str) -> None:
    stuck = 0
    for number in range(120):
        found, rng = base(number), random.Random(f"{number} {discipline}")
        rows = shuffled(rng, lowered_rows(found))
        eager = rng.choice([0, 0, 2, 9])
        stuck += is_stuck_as_in_the_oracle(found, rows, discipline, eager, f"base {number}")
    assert stuck < 100
    assert stuck > 5 or discipline in ("tagged", "buffered", "edge")


@pytest.mark.parametrize("discipline", Discipline)
def test_what_cannot_run_is_what_the_verifier_calls_a_deadlock(discipline: Discipline) -> None:
    """The two graphs of events are written apart: this one has ticks, that one judges wrong schedules too."""
    for number in range(120, 240):
        found, rng = base(number), random.Random(f"{number} {discipline}")
        schedule, eager = Schedule.of(shuffled(rng, lowered_rows(found))), rng.choice([0, 0, 2, 9])
        options = {"discipline": discipline, "eager_bytes": eager}
        judged = verify(schedule, found.problem, select=["SV304"], **options)
        stuck = makespan_or_none(schedule, found.problem, **options) is None
        assert bool(judged.violations) == stuck, f"base {number}: {judged.violations}"


def test_what_is_stricter_is_slower_and_admits_less() -> None:
    for number in range(200):
        found, rng = base(number), random.Random(number)
        schedule = Schedule.of(shuffled(rng, lowered_rows(found)))
        makespans = [makespan_or_none(schedule, found.problem, discipline) for discipline in Discipline]
        if in_order(schedule, found.problem):
            assert makespans == sorted(makespans, key=lambda ticks: (ticks is None, ticks)), f"base {number}"


def makespan_or_none(schedule: Schedule, problem: Problem, discipline: str, eager_bytes: int = 0) -> int | None:
    try:
        return simulate(schedule, problem, discipline=discipline, eager_bytes=eager_bytes).makespan
    except ScheduleError:
        return None


def in_order(schedule: Schedule, problem: Problem) -> bool:
    """Whether the n-th send of each channel is for the n-th receive (SV302)."""
    transfers = match(LoweredProgram(schedule, problem), Discipline.BUFFERED)
    return bool((transfers.made == transfers.read).all())


def test_where_nothing_queues_the_default_lowering_changes_no_time() -> None:
    for number in range(300):
        found = base(number)
        order = Schedule.of(found.rows)
        plain = simulate(order, found.problem)
        lowered = simulate(add_communication(order, found.problem), found.problem, discipline="tagged")
        computing = [
            list(zip(a.tolist(), b.tolist(), strict=True)) for a, b in zip(plain.starts, plain.ends, strict=True)
        ]
        assert steps_of(lowered, compute=True) == computing, f"base {number}"
        same = {name: getattr(plain.measures, name) for name in ("makespan", "span", "bubble_fraction", "work")}
        assert {name: getattr(lowered.measures, name) for name in same} == same
        assert lowered.peak_in_flight == plain.peak_in_flight


SLOW = {"latency": 1, "bytes": 8, "bandwidth": 2}
"""A transfer occupies its queue for four ticks and takes one more to arrive."""


def test_a_transfer_occupies_its_queue_and_its_latency_overlaps() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, forward=1, form="inference", **SLOW)
    text = "0F0 0SEND_F0 0F1 0SEND_F1\n1RECV_F0 1RECV_F1 1F0 1F1"
    assert times(text, problem, "tagged")[1] == [(1, 6), (2, 7), (6, 7), (7, 8)]
    assert times(text, problem, "edge") == [[(0, 1), (1, 5), (1, 2), (5, 9)], [(1, 6), (5, 10), (6, 7), (10, 11)]]


def test_opposite_transfers_share_the_queue_of_a_pair_but_not_of_an_edge_nor_within_a_group() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, edges=[[0, 2], [1, 3]], stages=4, placement=[0, 1, 1, 0],
                            forward=1, form="inference", **SLOW)  # fmt: skip
    apart = "0F0 0SEND_F0 3RECV_F0 3F0\n1F0 2RECV_F0 1SEND_F0 2F0"
    together = "0F0 [0SEND_F0;3RECV_F0] 3F0\n1F0 [2RECV_F0;1SEND_F0] 2F0"
    assert times(apart, problem, "edge")[0] == [(0, 1), (1, 5), (1, 6), (6, 7)]
    assert times(apart, problem, "pair")[0] == [(0, 1), (1, 5), (5, 10), (10, 11)]
    assert times(together, problem, "pair")[0] == [(0, 1), (1, 6), (6, 7)]
    assert times(together, problem, "block") == [[(0, 1), (1, 6), (6, 7)], [(0, 1), (1, 6), (6, 7)]]


def test_an_early_receive_holds_up_a_later_send_in_the_queue_of_a_rank() -> None:
    problem = Problem.chain(ranks=3, microbatches=1, edges=[[0, 1], [1, 2], [3, 4]], stages=5,
                            placement=[0, 1, 2, 1, 2], forward=[5, 1, 1, 1, 1], form="inference")  # fmt: skip
    text = "0F0 0SEND_F0\n1RECV_F0 3F0 3SEND_F0 1F0 1SEND_F0\n4RECV_F0 4F0 2RECV_F0 2F0"
    assert times(text, problem, "edge")[1][2] == (1, 1)
    assert times(text, problem, "rank")[1][2] == (5, 5)
    assert times(text, problem, "block")[1] == [(5, 5), (5, 6), (6, 6), (6, 7), (7, 7)]


def test_an_eager_send_is_complete_when_it_comes_to_the_head() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, stages=3, placement=[0, 1, 0], edges=[[0, 1]],
                            forward=[1, 1, 3], form="inference", **SLOW)  # fmt: skip
    text = "0F0 0SEND_F0 2F0\n1RECV_F0 1F0"
    assert times(text, problem, "block") == [[(0, 1), (1, 5), (5, 8)], [(1, 6), (6, 7)]]
    assert times(text, problem, "block", eager_bytes=7) == times(text, problem, "block")
    assert times(text, problem, "block", eager_bytes=8) == [[(0, 1), (1, 1), (1, 4)], [(1, 6), (6, 7)]]


def test_a_late_receive_makes_a_message_late_unless_the_send_goes_alone() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, stages=3, placement=[0, 1, 1], edges=[[0, 1]],
                            forward=[1, 1, 9], form="inference", **SLOW)  # fmt: skip
    text = "0F0 0SEND_F0\n2F0 1RECV_F0 1F0"
    assert times(text, problem, "edge")[1] == [(0, 9), (9, 14), (14, 15)]
    assert times(text, problem, "buffered")[1] == [(0, 9), (9, 9), (9, 10)]
    assert times(text, problem, "edge", eager_bytes=100)[1] == [(0, 9), (9, 9), (9, 10)]


def test_what_costs_nothing_stands_where_its_rank_is() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, forward=1, backward=2)
    text = "0UNSHARD 0F0 0SEND_F0 0RECV_B0 0B0 0REDUCE_GRAD\n1RECV_F0 1F0 1UNSHARD 1B0 1SEND_B0"
    assert times(text, problem) == [
        [(0, 0), (0, 1), (1, 1), (4, 4), (4, 6), (6, 6)],
        [(1, 1), (1, 2), (2, 2), (2, 4), (4, 4)],
    ]


def test_received_bytes_count_from_the_receive_to_the_end_of_the_step_that_reads_them() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, forward=1, backward=2, bytes=[5, 7], activation=[100, 1000])
    early = "0F0 0F1 0SEND_F0 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1\n1RECV_F0 1RECV_F1 1F0 1B0 1SEND_B0 1F1 1B1 1SEND_B1"
    late = "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1\n1RECV_F0 1F0 1B0 1RECV_F1 1SEND_B0 1F1 1B1 1SEND_B1"
    assert simulate(Schedule.parse(early), problem).peak_memory == (205, 1010)
    assert simulate(Schedule.parse(late), problem).peak_memory == (205, 1005)


def test_the_peaks_are_those_that_the_verifier_finds() -> None:
    for number in range(100):
        found, rng = base(number), random.Random(number)
        schedule = Schedule.of(shuffled(rng, lowered_rows(found)))
        try:
            peaks = simulate(schedule, found.problem, discipline="tagged").peak_memory
        except ScheduleError:
            continue
        assert violating(schedule, found.problem, peaks) in (set(), None), f"base {number}"
        less = [max(peak - 1, 0) for peak in peaks]
        expected = {rank for rank, peak in enumerate(peaks) if peak}
        assert violating(schedule, found.problem, less) in (expected, None), f"base {number}"


def violating(schedule: Schedule, problem: Problem, capacity: list[int]) -> set[int | None] | None:
    """Return the ranks that hold too much (SV402), or None where so little is refused for any schedule."""
    data = problem.to_dict()
    try:
        tight = Problem.of(data | {"memory": data["memory"] | {"capacity": capacity}})
    except InputError:
        return None
    return {violation.rank for violation in verify(schedule, tight, select=["SV402"]).violations}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0F0 0RECV_B0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0", "0SEND_F0>1 is missing"),
        ("0F0 0SEND_F0 0SEND_F0 0RECV_B0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0", "position 2: 0SEND_F0>1 is not needed there"),
        ("0F0 0SEND_F0>2 0RECV_B0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0", "0SEND_F0>2 is not needed there"),
        ("0F0 0SEND_F0 0RECV_B0 0B0 1RECV_F0\n1F0 1B0 1SEND_B0", "rank 0, position 4: 1RECV_F0<0 is not needed there"),
        ("0F0 0SEND_F9 0RECV_B0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0", "0SEND_F9>1 is not needed there"),
        ("0F0 9SEND_F0 0RECV_B0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0", "9SEND_F0 is not needed there"),
        ("0F0 0SEND_F0 0RECV_B0\n1RECV_F0 1F0 1B0 1SEND_B0", "stage 0 lacks operations of micro-batch 0"),
        ("0F0 [0SEND_F0;0RECV_B0] 0B0\n1RECV_F0 [1F0;1B0] 1SEND_B0", "rank 1, position 1: 1F0 begins no step"),
        ("(0F0;0SEND_F0)OVERLAP_F_B 0RECV_B0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0", "rank 0, position 0: 0F0 begins no step"),
        ("0F0 0RECV_B0 0SEND_F0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0", "under pair: 0RECV_B0 waits at rank 0, position 1"),
        ("0F0 0SEND_F0 0B0 0RECV_B0\n1RECV_F0 1F0 1B0 1SEND_B0", "0B0 waits at rank 0, position 2 for ever"),
    ],
)
def test_what_cannot_run_has_no_timeline(text: str, message: str) -> None:
    with pytest.raises(ScheduleError, match=message):
        simulate(Schedule.parse(text), Problem.chain(ranks=2, microbatches=1))


def test_options_are_checked() -> None:
    problem = Problem.chain(ranks=1, microbatches=1, form="inference")
    with pytest.raises(InputError, match="unknown discipline 'blocking'"):
        simulate(Schedule.parse("0F0"), problem, discipline="blocking")
    with pytest.raises(InputError, match="eager_bytes"):
        simulate(Schedule.parse("0F0"), problem, eager_bytes=-1)


def test_a_timeline_is_its_schedule_problem_and_discipline() -> None:
    problem = Problem.chain(ranks=2, microbatches=2)
    lowered = add_communication(generate("1f1b", problem), problem)
    pair, rank = simulate(lowered, problem), simulate(lowered, problem, discipline="rank")
    assert pair == simulate(lowered, problem, discipline="pair")
    assert pair != rank
    assert (rank.discipline, simulate(generate("1f1b", problem), problem).discipline) == ("rank", None)


def test_the_longest_ways_are_found_in_linear_time() -> None:
    """Ten times the operations make ten times the edges: each is looked at once."""
    edges = []
    for microbatches in (40, 400):
        problem = Problem.chain(ranks=4, microbatches=microbatches)
        lowered = add_communication(generate("1f1b", problem), problem)
        edges.append(len(run(lowered, problem, Discipline.BLOCK, 0).events.edges.tail))
    assert edges[1] < 11 * edges[0]
