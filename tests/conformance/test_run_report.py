"""Runs held against their plans: traces that conform exactly, every kind of departure, clocks, files, real runs."""

from __future__ import annotations

import functools
import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import schedverify as sv
from schedverify import formats
from schedverify.cli import main
from schedverify.conformance import conform, data_of, measured_problem, timeline_of_run
from schedverify.conformance.dependency_check import early_steps
from schedverify.core.errors import InputError, ScheduleError
from schedverify.core.result import Plan
from schedverify.core.trace import RunTrace, StepSpan
from schedverify.formats.plan_files import digest, plan_data
from schedverify.formats.schema import schemas
from schedverify.planner.plans import plan_of
from support.random_schedules import base

US = 1000
Capture = pytest.CaptureFixture[str]


def a_plan(name: str = "zb-h1", **keys: object) -> Plan:
    problem = sv.Problem.chain(
        **{"ranks": 3, "microbatches": 4, "forward": 20, "backward_input": 18, "backward_weight": 11, "latency": 3,
           "tick": "us"} | keys
    )  # fmt: skip
    return plan_of(sv.generate(name, problem), problem)


def as_predicted(plan: Plan, steps: int = 1) -> RunTrace:
    """Return the trace of a run that goes exactly as the plan's own costs say, one tick a microsecond."""
    assert plan.lowered is not None
    how = {"discipline": plan.lowered.discipline, "eager_bytes": plan.lowered.eager_bytes}
    timeline = sv.simulate(plan.lowered.schedule, plan.problem, **how)
    length = (timeline.makespan + 100) * US
    trace = []
    for number in range(steps):
        rows = [
            StepSpan(rank, position, str(step), number * length + start * US, number * length + end * US)
            for rank in range(plan.problem.ranks)
            for position, (step, start, end) in enumerate(
                zip(
                    timeline.schedule.steps(rank),
                    timeline.starts[rank].tolist(),
                    timeline.ends[rank].tolist(),
                    strict=True,
                )
            )
        ]
        trace.append(tuple(rows))
    return RunTrace(digest(plan_data(plan)), plan.problem.ranks, tuple(trace), (0,) * plan.problem.ranks)


def changed(trace: RunTrace, change: Callable[[list[StepSpan]], None]) -> RunTrace:
    step = list(trace.steps[0])
    change(step)
    return RunTrace(trace.plan, trace.ranks, (tuple(step), *trace.steps[1:]), trace.errors)


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
        change = data.draw(st.sampled_from([absent, renamed, twice, before_all]))
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


def put(*path: str | int, **keys: object) -> Callable[[dict], None]:
    """Return what puts keys into a part of the data of a trace, given by the way to it."""

    def change(data: dict) -> None:
        functools.reduce(lambda part, key: part[key], path, data).update(keys)

    return change


def take(*path: str | int) -> Callable[[dict], None]:
    """Return what takes a key or an event out of the data of a trace."""
    return lambda data: functools.reduce(lambda part, key: part[key], path[:-1], data).pop(path[-1])


TRACE = Draft202012Validator(json.loads(schemas()["trace.json"]))
LAST = ("traceEvents", -1)
WRONG = [
    (put("otherData", version=2), "otherData.version: expected 1, found 2 (a newer schedverify wrote it"),
    (put("otherData", version=0), "otherData.version: expected 1, found 0 (schedverify run --trace writes it)"),
    (put("otherData", version=True), "otherData.version: expected 1, found true (schedverify run --trace writes it)"),
    (put("otherData", format="x"), "otherData.format: expected 'schedverify run'"),
    (put("otherData", ranks=0), "otherData.ranks: expected a whole number from 1"),
    (put("otherData", steps="1"), "otherData.steps: expected a whole number from 0 to 1000000, found '1'"),
    (put("otherData", more=0), "otherData.more: unknown key (known: format, version,"),
    (put("otherData", plan="x" * 64), "otherData.plan: expected the digest of a plan, 64 hexadecimal digits"),
    (put("otherData", plan="A" * 64), "otherData.plan: expected the digest of a plan, 64 hexadecimal digits"),
    (put("otherData", errors=[0, 0, -1]), "otherData.errors[2]: expected a whole number from 0 to 2^62, found -1"),
    (take("otherData", "errors"), "otherData.errors: missing (schedverify run --trace writes it)"),
    (put(metadata={}), "metadata: unknown key (known: displayTimeUnit, otherData, traceEvents)"),
    (put(otherdata={}), "otherdata: unknown key (did you mean 'otherData'?)"),
    (take("displayTimeUnit"), "displayTimeUnit: missing"),
    (put(displayTimeUnit="ns"), "displayTimeUnit: expected 'ms', found 'ns'"),
    (put(traceEvents=3), "traceEvents: expected a list, found 3"),
    (lambda data: data["traceEvents"].append(3), "traceEvents[71]: expected a table, found 3 (a step that ran, or"),
    (lambda data: data["traceEvents"].append([]), "traceEvents[71]: expected a table, found a list of 0"),
    (put(*LAST, ph="B"), 'traceEvents[70].ph: expected "X", a step that ran, or "M", the name of a rank, found \'B\''),
    (take(*LAST, "ph"), "traceEvents[70].ph: expected"),
    (put(*LAST, cat="F"), "traceEvents[70].cat: unknown key"),
    (put(*LAST, colour=1), "traceEvents[70].colour: unknown key (known: name, ph, pid, tid, ts, dur, args)"),
    (take(*LAST, "dur"), "traceEvents[70].dur: missing"),
    (take(*LAST, "tid"), "traceEvents[70].tid: missing"),
    (take(*LAST, "args"), "traceEvents[70].args: missing"),
    (put(*LAST, args=[]), "traceEvents[70].args: expected a table, found a list of 0 (with step, position,"),
    (put(*LAST, "args", stop=1), "traceEvents[70].args.stop: unknown key (did you mean 'step'?)"),
    (take(*LAST, "args", "position"), "traceEvents[70].args.position: missing"),
    (put(*LAST, "args", position=True), ".args.position: expected a whole number from 0 to 2^62, found true"),
    (put(*LAST, "args", start=-1), "traceEvents[70].args.start: expected a whole number from 0 to 2^62, found -1"),
    (put(*LAST, tid=3), "traceEvents[70].tid: expected 0, found 3 (what computes is on 0"),
    (put("traceEvents", 0, name="thread_name"), "traceEvents[0].name: expected 'process_name', found 'thread_name'"),
    (put("traceEvents", 0, ts=0), "traceEvents[0].ts: unknown key (known: name, ph, pid, tid, args)"),
    (put("traceEvents", 1, tid=1), "traceEvents[1].tid: expected 0, found 1 (this event names the process of rank 1)"),
    (put("traceEvents", 1, "args", name="one"), "traceEvents[1].args.name: expected 'rank 1', found 'one'"),
    (put("traceEvents", 1, "args", more=1), "traceEvents[1].args.more: unknown key"),
]  # fmt: skip
BETWEEN = [
    (put("otherData", errors=[1]), "otherData.errors: expected one number for each of 3 ranks, found a list of 1"),
    (put(*LAST, name="2F0junk"), "traceEvents[70].name: expected a step such as 2F0 or 0SEND_F1, found '2F0junk'"),
    (put(*LAST, pid=3), "traceEvents[70].pid: expected a whole number from 0 to 2, found 3 (otherData.ranks is 3)"),
    (put(*LAST, "args", step=1), ".args.step: expected a whole number from 0 to 0, found 1 (otherData.steps is 1)"),
    (put(*LAST, "args", end=5), "traceEvents[70].args.end: expected a whole number from 243000 to 2^62, found 5"),
    (put(*LAST, ts=243.001), "traceEvents[70].ts: expected 243.0, found 243.001 (args.start in microseconds)"),
    (put(*LAST, dur=12), "traceEvents[70].dur: expected 11.0, found 12 (args.end - args.start in microseconds)"),
    (put(*LAST, tid=1), "traceEvents[70].tid: expected 0, found 1 (what computes is on 0"),
    (take("traceEvents", 1), "traceEvents: rank 1 has no name (expected an event \"process_name\" of each rank)"),
    (lambda data: data["traceEvents"].append(data["traceEvents"][0]), "traceEvents[71].pid: rank 0 is named twice"),
]  # fmt: skip
"""What is wrong with a trace: with a key alone, which the schema sees too, and between keys."""


class TestFiles:
    def test_a_trace_reads_back(self, tmp_path: Path) -> None:
        trace = as_predicted(a_plan(), 2)
        formats.save_run(trace, tmp_path / "run.json")
        assert formats.load_run(tmp_path / "run.json") == trace
        data = json.loads((tmp_path / "run.json").read_text())
        assert {event["ph"] for event in data["traceEvents"]} == {"M", "X"}
        TRACE.validate(data)

    def test_times_beyond_what_floats_hold_read_back(self, tmp_path: Path) -> None:
        ran = (StepSpan(0, 0, "0F0", 0, 1), StepSpan(0, 1, "0F1", 10**17 + 1, 2 * 10**17 + 3))
        trace = RunTrace("0" * 64, 1, (ran,), (0,))
        formats.save_run(trace, tmp_path / "run.json")
        assert formats.load_run(tmp_path / "run.json") == trace

    @pytest.mark.parametrize(
        ("change", "told"),
        [
            *WRONG,
            *BETWEEN,
        ],
    )
    def test_what_is_wrong_with_a_file_is_told(self, tmp_path: Path, change: Callable, told: str) -> None:
        formats.save_run(as_predicted(a_plan()), tmp_path / "run.json")
        data = json.loads((tmp_path / "run.json").read_text())
        change(data)
        (tmp_path / "run.json").write_text(json.dumps(data))
        with pytest.raises(InputError) as caught:
            formats.load_run(tmp_path / "run.json")
        assert len(caught.value.faults) == 1
        assert told in str(caught.value)
        assert "run.json" in str(caught.value)
        assert all(fault.hint for fault in caught.value.faults)
        assert TRACE.is_valid(data) == ((change, told) in BETWEEN)

    def test_every_fault_is_told_at_once(self, tmp_path: Path) -> None:
        formats.save_run(as_predicted(a_plan()), tmp_path / "run.json")
        data = json.loads((tmp_path / "run.json").read_text())
        changes = (put(more=1), put("otherData", plan="x"), put("traceEvents", 5, tid=9), put(*LAST, "args", start="0"))
        for change in changes:
            change(data)
        (tmp_path / "run.json").write_text(json.dumps(data))
        with pytest.raises(InputError) as caught:
            formats.load_run(tmp_path / "run.json")
        keys = [fault.key for fault in caught.value.faults]
        assert keys == ["more", "otherData.plan", "traceEvents[5].tid", "traceEvents[70].args.start"]

    @pytest.mark.parametrize(
        "text", ["", "[]", "{}", '{"otherData": 3}', '{"otherData": {}, "otherData": {}}', "nonsense"]
    )
    def test_other_files_are_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(InputError, match=r"run\.json"):
            formats.load_run(tmp_path / "run.json")

    def test_no_flip_of_a_character_is_more_than_an_error(self, tmp_path: Path) -> None:
        formats.save_run(as_predicted(a_plan(microbatches=1)), tmp_path / "run.json")
        text, rng = (tmp_path / "run.json").read_text(), random.Random(1)
        for _ in range(150):
            place = rng.randrange(len(text))
            flipped = text[:place] + rng.choice('0{}[]",x') + text[place + 1 :]
            (tmp_path / "run.json").write_text(flipped)
            try:
                formats.load_run(tmp_path / "run.json")
            except InputError:
                continue
            TRACE.validate(json.loads(flipped))


class TestCommand:
    @pytest.fixture
    def desk(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        monkeypatch.chdir(tmp_path)
        plan = a_plan()
        sv.save(plan, "plan.json")
        formats.save_run(as_predicted(plan, 2), "run.json")
        return tmp_path

    def test_it_tells_measures_and_writes_problem_and_picture(
        self, desk: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert main(["conform", "plan.json", "run.json", "-o", "again.toml", "--draw", "run.svg"]) == 0
        assert "the run followed the plan in 2 steps" in capsys.readouterr().out
        assert sv.load("again.toml").forward == (20, 20, 20)
        assert "what ran, in microseconds" in (desk / "run.svg").read_text()
        assert main(["conform", "plan.json", "run.json", "--format", "json"]) == 0
        assert json.loads(capsys.readouterr().out)["ok"] is True

    def test_its_codes_are_those_of_the_others(self, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
        formats.save_run(changed(as_predicted(a_plan()), lose), "short.json")
        assert main(["conform", "plan.json", "short.json"]) == 1
        assert "(2W3): never ran" in capsys.readouterr().out
        sv.save(a_plan("1f1b"), "other.json")
        assert main(["conform", "other.json", "run.json"]) == 2
        assert main(["conform", "plan.json", "absent.json"]) == 2
        assert "absent.json: no such file" in capsys.readouterr().err

    def test_a_real_run_conforms(self, desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch) -> None:
        pytest.importorskip("torch", reason="torch is not installed")
        monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[2]))
        Path("my_model.py").write_text(
            "from torch import nn\n\n\ndef build():\n    return [nn.Linear(8, 8) for _ in range(3)]\n"
        )
        assert main(["run", "plan.json", "--model", "my_model:build", "--steps", "3", "--trace", "real.json"]) == 0
        assert capsys.readouterr().out.count("loss") == 0  # the processes print, not this one
        TRACE.validate(json.loads(Path("real.json").read_text()))
        assert main(["conform", "plan.json", "real.json", "--format", "json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["ok"]
        assert found["peaks"] == found["allowed"]
        assert len(found["makespans"]) == 3
