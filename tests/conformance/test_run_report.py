"""Runs held against their plans: traces that conform exactly, every kind of departure, clocks, files, real runs."""

from __future__ import annotations

import dataclasses
import json
import random
from collections.abc import Callable
from fractions import Fraction

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import schedverify as sv
from schedverify import formats
from schedverify.conformance import conform, data_of, measured_problem, timeline_of_run
from schedverify.conformance.dependency_check import early_steps
from schedverify.conformance.order_check import transfer_faults
from schedverify.core.errors import InputError, ScheduleError
from schedverify.core.trace import RunTrace, StepSpan
from schedverify.formats.plan_files import digest, plan_data
from schedverify.formats.schema import schemas
from schedverify.planner.plans import plan_of
from support.random_schedules import base
from support.run_traces import US, a_plan, as_predicted, changed

Capture = pytest.CaptureFixture[str]
DISCIPLINES = ("tagged", "buffered", "edge", "pair", "rank", "block")


@pytest.mark.parametrize("name", ["1f1b", "gpipe", "zb-h1", "zb-2p"])
@pytest.mark.parametrize("steps", [1, 3])
def test_a_run_as_predicted_conforms_and_costs_what_was_planned(name: str, steps: int) -> None:
    plan = a_plan(name)
    found = conform(plan, as_predicted(plan, steps))
    assert found.ok
    assert plan.measures is not None
    assert set(found.makespans) == {plan.measures.makespan * US}
    assert found.measured == found.predicted == found.planned
    assert found.bubble == pytest.approx(found.planned_bubble)
    assert found.peaks == found.allowed
    assert all(cost.median == cost.planned * US for cost in found.costs)
    assert found.latency == 3 * US
    again = measured_problem(plan.problem, as_predicted(plan, steps))
    assert (again.forward, again.backward_input, again.latency) == (
        plan.problem.forward, plan.problem.backward_input, plan.problem.latency,
    )  # fmt: skip
    Draft202012Validator(json.loads(schemas()["conform.json"])).validate(json.loads(formats.dumps(data_of(found))))


def test_what_a_plan_states_of_itself_allows_nothing() -> None:
    plan = a_plan("gpipe")
    assert plan.measures is not None
    honest = conform(plan, as_predicted(plan))
    stated = dataclasses.replace(
        plan.measures, makespan=1, bubble_fraction=Fraction(0), peak_in_flight=(99, 99, 99, 99)
    )
    forged = dataclasses.replace(plan, measures=stated)
    found = conform(forged, as_predicted(forged))
    assert (found.allowed, found.planned, found.planned_bubble) == (
        honest.allowed, honest.planned, honest.planned_bubble,
    )  # fmt: skip


def test_a_run_of_inference_as_predicted_conforms() -> None:
    """Without a backward a micro-batch is in flight for its F alone."""
    problem = sv.Problem.chain(ranks=4, microbatches=8, form="inference", forward=5, tick="us")
    plan = plan_of(sv.generate("gpipe", problem), problem)
    found = conform(plan, as_predicted(plan))
    assert found.ok
    assert found.peaks == found.allowed == (1, 1, 1, 1)


def swap(step: list[StepSpan]) -> None:
    i = next(i for i, ran in enumerate(step) if ran.step == "1F1")
    step[i] = step[i]._replace(step="1F2")


def lose(step: list[StepSpan]) -> None:
    step.remove(next(ran for ran in step if ran.step == "2W3"))


def double(step: list[StepSpan]) -> None:
    step.append(step[0])


def append(step: list[StepSpan]) -> None:
    step.append(StepSpan(0, 99, "0W3", 10**9, 10**9 + 1))


def begin_early(step: list[StepSpan]) -> None:
    """Have rank 1 read its first micro-batch, received and all, before rank 0 has made it."""
    for text in ("1RECV_F0", "1F0"):
        i = at(step, text)
        step[i] = step[i]._replace(start=step[i].start - 20 * US)
    step[at(step, "1RECV_F0")] = step[at(step, "1RECV_F0")]._replace(end=step[at(step, "1F0")].start)


def at(step: list[StepSpan], text: str) -> int:
    return next(i for i, ran in enumerate(step) if ran.step == text)


def move(text: str, **by: int) -> Callable[[list[StepSpan]], None]:
    """Return what moves the begin or end of a step by microseconds."""

    def change(step: list[StepSpan]) -> None:
        ran = step[at(step, text)]
        step[at(step, text)] = ran._replace(**{key: getattr(ran, key) + micro * US for key, micro in by.items()})

    return change


def overlap(step: list[StepSpan]) -> None:
    i = next(i for i, ran in enumerate(step) if ran.step == "0F0")
    step[i] = step[i]._replace(end=step[i].end + 5 * US)


def exchange(one: str, other: str) -> Callable[[list[StepSpan]], None]:
    """Return what gives each of two steps the times of the other."""

    def change(step: list[StepSpan]) -> None:
        a, b = step[at(step, one)], step[at(step, other)]
        step[at(step, one)] = a._replace(start=b.start, end=b.end)
        step[at(step, other)] = b._replace(start=a.start, end=a.end)

    return change


def hold(step: list[StepSpan]) -> None:
    """Delay the end of the first gradient past the start of further forwards."""
    i = next(i for i, ran in enumerate(step) if ran.step == "2I0")
    step[i] = step[i]._replace(end=step[i].end + 60 * US)


PLANTED = {
    "another step": (swap, "(1F1): 1F2 ran there"),
    "a step lost": (lose, "(2W3): never ran"),
    "a step twice": (double, "rank 0: a position ran twice"),
    "a step too many": (append, "rank 0, position 99 (0W3): the plan ends before it"),
    "before its input": (begin_early, "(1F0): began 17.0 us before 0F0 had ended on rank 0"),
    "before its receive": (move("1RECV_F0", end=2), "(1F0): began 2.0 us before 1RECV_F0 had ended on rank 1"),
    "received before it was sent": (
        move("1RECV_F0", start=-23, end=-4),
        "(1RECV_F0): ended 1.0 us before 0SEND_F0 began on rank 0",
    ),
    "sent before it was made": (
        move("0SEND_F0", start=-1),
        "(0SEND_F0): began 1.0 us before 0F0 had ended on rank 0",
    ),
    "a gradient sent before it was made": (
        move("2SEND_B0", start=-1),
        "(2SEND_B0): began 1.0 us before 2I0 had ended on rank 2",
    ),
    "before the step in front": (overlap, "(0F1): began before 0F0 had ended"),
    "received before the one in front": (
        move("1RECV_F1", start=-30),
        "rank 1, position 1 (1RECV_F1): began before 1RECV_F0, which stands in front of it",
    ),
    "sent before the one in front": (
        exchange("1SEND_B2", "1SEND_B3"),
        "(1SEND_B3): began before 1SEND_B2, which stands in front of it",
    ),
    "a transfer before the compute step in front": (
        move("0RECV_B1", start=-60),
        "(0RECV_B1): began before 0W0 had ended",
    ),
    "too many in flight": (hold, "rank 2: 2 micro-batches were in flight, the plan has at most 1"),
}


@pytest.mark.parametrize("name", PLANTED)
def test_a_departure_is_told_with_its_place(name: str) -> None:
    change, told = PLANTED[name]
    plan = a_plan()
    found = conform(plan, changed(as_predicted(plan, 2), change))
    assert not found.ok
    assert any(told in str(each) for each in found.departures), list(map(str, found.departures))
    assert {each.step for each in found.departures} == {0}


def test_clocks_that_may_differ_excuse_as_much_and_no_more() -> None:
    plan = a_plan()
    trace = changed(as_predicted(plan), begin_early)
    for errors, ok in (((0, 17 * US, 0), True), ((0, 16 * US, 0), False)):
        assert conform(plan, RunTrace(trace.plan, trace.ranks, trace.steps, errors)).ok is ok


def test_a_forward_that_takes_no_time_is_in_flight_all_the_same() -> None:
    plan = a_plan("gpipe", forward=[0, 20, 0], backward_input=None, backward_weight=None, form="inference")
    assert conform(plan, as_predicted(plan)).peaks == (1, 1, 1)


def test_what_is_read_from_a_group_need_not_wait_for_its_other_members() -> None:
    """A group ends with its last member; what another brings may be read before, but not before the group began."""
    plan, group = a_plan(), "[1RECV_F0;1RECV_F1]"
    receive, reader = StepSpan(1, 0, group, 0, 50), StepSpan(1, 1, "1F0", 20, 40)
    assert not list(early_steps(plan.problem, (receive, reader), (0, 0, 0)))
    found = list(early_steps(plan.problem, (receive._replace(start=25), reader), (0, 0, 0)))
    assert [str(each.message) for each in found] == [
        "rank 1, position 1 (1F0): began 0.0 us before 1RECV_F0 had begun on rank 1"
    ]


def test_bandwidth_stays_and_is_no_part_of_latency() -> None:
    plan = a_plan(bytes=600, bandwidth=100, tick="2 us")
    again = measured_problem(plan.problem, as_predicted(plan))
    assert plan.lowered is not None
    # A tick of the trace is one microsecond, half of what the problem says: 9 us, of which 6 ticks would be 12.
    assert again.bandwidth == ((50,) * 3,) * 3
    assert again.latency[0][1] == 0
    plan = a_plan(bytes=600, bandwidth=100)
    found, again = conform(plan, as_predicted(plan)), measured_problem(plan.problem, as_predicted(plan))
    assert (found.latency, again.latency[0][1], again.bandwidth[0][1]) == (9 * US, 3, 100)
    assert found.measured == found.predicted


class TestRandomRuns:
    """Random valid schedules of problems of every form, lowered; a trace as predicted, and one thing changed in it."""

    @given(st.integers(0, 5000), st.data())
    @settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.filter_too_much])
    def test_as_predicted_it_conforms_and_a_departure_is_told(self, number: int, data: st.DataObject) -> None:
        found = base(number)
        assume(found.fits)
        problem = sv.Problem.of(found.data | {"tick": "us"})
        try:
            plan = plan_of(sv.Schedule.of(found.rows), problem)
        except ScheduleError:
            assume(False)
        trace = as_predicted(plan)
        told = conform(plan, trace)
        assert not told.departures
        assert told.peaks == told.allowed
        assert told.measured == told.predicted
        change = data.draw(st.sampled_from([absent, renamed, twice, before_all, out_of_order]))
        rng = data.draw(st.randoms(use_true_random=False))
        spoilt = changed(trace, lambda step: change(step, rng))
        assume(spoilt != trace)
        assert not conform(plan, spoilt).ok


def absent(step: list[StepSpan], rng: random.Random) -> None:
    if len(step) > 1:
        step.pop(rng.randrange(len(step)))


def renamed(step: list[StepSpan], rng: random.Random) -> None:
    i = rng.randrange(len(step))
    step[i] = step[i]._replace(step=rng.choice(step).step)


def twice(step: list[StepSpan], rng: random.Random) -> None:
    step.append(rng.choice(step))


def before_all(step: list[StepSpan], rng: random.Random) -> None:
    """Have the reader of a message, or the message's coming, be over before the run began."""
    rests = [i for i, ran in enumerate(step) if "RECV" in ran.step and not ran.step.startswith("[")]
    if rests:
        i = rng.choice(rests)
        step[i] = step[i]._replace(start=-2 * US, end=-US)


def out_of_order(step: list[StepSpan], rng: random.Random) -> None:
    """Have a transfer begin before the compute step in front of it has ended."""
    pairs = [
        (i, before)
        for i, ran in enumerate(step)
        for before in step
        if before.rank == ran.rank and before.position == ran.position - 1 and before.start < before.end
        if "SEND" not in before.step and "RECV" not in before.step and ("SEND" in ran.step or "RECV" in ran.step)
    ]
    if pairs:
        i, before = rng.choice(pairs)
        step[i] = step[i]._replace(start=before.start)


@pytest.mark.parametrize("discipline", DISCIPLINES)
@pytest.mark.parametrize("number", range(0, 60, 4))
def test_transfers_as_the_discipline_has_them_stand_in_no_wrong_order(number: int, discipline: str) -> None:
    """Under every discipline a transfer goes through its queue behind the one in front of it."""
    found = base(number)
    if not found.fits:
        return
    problem = sv.Problem.of(found.data | {"tick": "us"})
    try:
        lowered = sv.lower(sv.Schedule.of(found.rows), problem, discipline=discipline)
    except ScheduleError:
        return
    timeline = sv.simulate(lowered, problem, discipline=discipline)
    step = [
        StepSpan(rank, position, str(each), int(timeline.starts[rank][position]), int(timeline.ends[rank][position]))
        for rank in range(problem.ranks)
        for position, each in enumerate(lowered.steps(rank))
    ]
    assert not list(transfer_faults(problem, step, discipline))


def test_a_queue_has_what_its_discipline_gives_it() -> None:
    """Of two ranks: both directions share a queue under ``pair``, one each under ``edge``; ``tagged`` has none."""
    problem = sv.Problem.chain(ranks=2, microbatches=2)
    send, receive = StepSpan(0, 0, "0SEND_F0", 20, 30), StepSpan(0, 1, "0RECV_B0", 10, 15)
    told = {name: bool(list(transfer_faults(problem, (send, receive), name))) for name in DISCIPLINES}
    assert told == {"tagged": False, "buffered": False, "edge": False, "pair": True, "rank": True, "block": True}
    behind = receive._replace(step="0SEND_F1")
    assert all(list(transfer_faults(problem, (send, behind), name)) for name in DISCIPLINES)


def test_what_does_not_belong_together_is_told() -> None:
    plan, other = a_plan(), a_plan("1f1b")
    with pytest.raises(InputError, match=r"otherData\.plan: the trace is of the plan"):
        conform(other, as_predicted(plan))
    empty = RunTrace(digest(plan_data(plan)), 3, (), (0, 0, 0))
    with pytest.raises(InputError, match="no step of training"):
        conform(plan, empty)


def test_the_timeline_of_a_run_is_the_plan_s_where_it_went_as_predicted() -> None:
    plan = a_plan()
    drawn = timeline_of_run(plan, as_predicted(plan))
    assert plan.measures is not None
    assert drawn.measures.makespan == plan.measures.makespan
    assert [row.tolist() for row in drawn.starts] == [list(row) for row in plan.starts]
    with pytest.raises(InputError, match="2W3 never ran"):
        timeline_of_run(plan, changed(as_predicted(plan), lose))
