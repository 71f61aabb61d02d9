"""Traces of torch.profiler as a run: recorded ones beside a computation of their own, made ones beside their truth."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import schedverify as sv
from schedverify.conformance import conform
from schedverify.conformance.bubble_causes import rank_times
from schedverify.conformance.dependency_check import ops_of
from schedverify.conformance.measured_costs import bubble, makespans
from schedverify.conformance.run_files import load_runs
from schedverify.core.errors import InputError
from schedverify.core.result import Plan
from schedverify.core.trace import StepSpan
from schedverify.planner.plans import plan_of
from support.profiler_files import event, made, recorded, written
from support.run_traces import US, a_plan, as_predicted


def by_hand(files: list[str], step: int) -> float:
    """Return the bubble of a profiled step: each mark of compute, without the wait that ends where a receive does."""
    worked, starts, ends = 0.0, [], []
    for file in files:
        events = json.loads(gzip.decompress(Path(file).read_bytes()))["traceEvents"]
        whole = next(e for e in events if e["name"] == f"ProfilerStep#{step}")
        inside = [e for e in events if whole["ts"] <= e["ts"] < whole["ts"] + whole["dur"] and e["ph"] == "X"]
        waits = [e["ts"] + e["dur"] for e in inside if e["name"] == "gloo:recv"]
        for e in inside:
            if e["name"].startswith("PP:") and e["name"][4] in "FB":
                end = e["ts"] + e["dur"]
                start = max([e["ts"], *(wait for wait in waits if e["ts"] < wait < end)])
                worked, starts, ends = worked + end - start, [*starts, start], [*ends, end]
    return float(1 - worked / (len(files) * (max(ends) - min(starts))))


def test_the_bubble_of_a_recorded_run_is_that_by_hand() -> None:
    files = recorded("interleaved")
    run = load_runs(files)
    assert [len(run.trace.steps), run.trace.ranks, run.remarks] == [2, 4, ()]
    assert run.trace.errors == (0, 0, 0, 0), "one host has one clock"
    for number, step in enumerate(run.trace.steps):
        assert bubble(step, 4) == pytest.approx(by_hand(files, number + 1), rel=0.001)
        times = rank_times(sv.Problem.chain(ranks=4, microbatches=8, virtual=2), step)
        assert sum(each.idle for each in times) == pytest.approx(bubble(step, 4) * 4 * makespans(run.trace)[number])
        assert all(min(each) >= 0 for each in times)


@pytest.mark.parametrize(("name", "family", "shape"), [
    ("interleaved", "interleaved-1f1b", {"ranks": 4, "microbatches": 8, "virtual": 2}),
    ("gpipe", "gpipe", {"ranks": 4, "microbatches": 4}),
])  # fmt: skip
def test_a_recorded_run_conforms_to_its_family_and_to_no_other(name: str, family: str, shape: dict[str, Any]) -> None:
    problem = sv.Problem.chain(**shape)
    trace = load_runs(recorded(name)).trace
    assert conform(plan_for(family, problem), trace).ok
    other = plan_for("looped-bfs" if family != "gpipe" else "1f1b", problem)
    found = conform(other, trace)
    assert {each.what for each in found.departures} >= {"order"}


def plan_for(family: str, problem: sv.Problem) -> Plan:
    return plan_of(sv.generate(family, problem), problem)


def computed(steps: tuple[StepSpan, ...]) -> dict[tuple[int, str], StepSpan]:
    return {(ran.rank, ran.step): ran for ran in steps if ops_of(ran.step)[0].kind.is_compute}


@pytest.mark.parametrize("device", [False, True])
@pytest.mark.parametrize("family", ["1f1b", "zb-h1"])
def test_clocks_that_differ_are_found_within_what_is_told(tmp_path: Path, family: str, device: bool) -> None:
    truth = as_predicted(a_plan(family), 3)
    late = (0, 5_000_000, -7_000_000)
    run = load_runs(written(tmp_path, made(truth, late=late, hosts=("a", "b", "c"), device=device)))
    assert len(run.trace.steps) == 3
    assert run.remarks == ()
    assert 0 < max(run.trace.errors) < 20 * US, "a few times the latency of 3 us"
    for told, ran in zip(run.trace.steps, truth.steps, strict=True):
        for place, span in computed(told).items():
            real = computed(ran)[place]
            assert span.end - span.start == pytest.approx(real.end - real.start, abs=100)
            assert abs(span.start - real.start) <= run.trace.errors[place[0]] + 100
    assert conform(a_plan(family), run.trace).ok


def test_on_one_host_nothing_is_moved(tmp_path: Path) -> None:
    truth = as_predicted(a_plan("1f1b"))
    run = load_runs(written(tmp_path, made(truth, hosts=("a", "a", "a"))))
    assert run.trace.errors == (0, 0, 0)
    assert bubble(run.trace.steps[0], 3) == pytest.approx(bubble(truth.steps[0], 3), abs=0.001)


def test_marks_alone_tell_the_work_by_when_messages_were_sent(tmp_path: Path) -> None:
    truth = as_predicted(a_plan("1f1b"))
    run = load_runs(written(tmp_path, made(truth, hosts=("a", "a", "a"), bare=True)))
    assert run.remarks == ("some waits are not told from work: they are taken to end when their message was sent",)
    for place, span in computed(run.trace.steps[0]).items():
        real = computed(truth.steps[0])[place]
        assert span.end == real.end
        assert real.start - span.start <= 4 * US, "the latency of 3 us counts as work"


def test_an_overlapped_pair_may_wait_in_its_middle() -> None:
    run = load_runs(recorded("dualpipev"))
    assert any("OVERLAP" in ran.step for ran in run.trace.steps[0])


def _rank(files: list[dict[str, Any]], rank: int, events: Callable[[list[Any]], list[Any]]) -> list[dict[str, Any]]:
    files[rank]["traceEvents"] = events(files[rank]["traceEvents"])
    return files


def without(name: str) -> Callable[[list[Any]], list[Any]]:
    return lambda events: [each for each in events if not each["name"].startswith(name)]


TRUTH = as_predicted(a_plan("1f1b"), 2)
WRONG: dict[str, tuple[Callable[[], list[Any]], str]] = {
    "a rank is missing": (lambda: made(TRUTH)[:2], "traceEvents: stage 2 computes in none of the 2 traces"),
    "the first is missing": (lambda: made(TRUTH)[1:], "traceEvents: stage 0 computes in none of the 2 traces"),
    "one twice": (lambda: [*made(TRUTH), made(TRUTH)[0]], "rank3.json: distributedInfo.rank: rank 0, as in"),
    "two pipelines": (
        lambda: [*made(TRUTH), *({**each, "distributedInfo": {"rank": 9}} for each in made(TRUTH)[:1])],
        "rank3.json: traceEvents: stage 0 computes here and in",
    ),
    "no step in common": (
        lambda: _rank(made(TRUTH), 1, lambda own: [{**e, "name": e["name"].replace("Step#", "Step#7")} for e in own]),
        "no step of training is whole in all of the traces",
    ),
    "steps unnumbered": (
        lambda: _rank([{**f, "traceEvents": without("Profiler")(f["traceEvents"])} for f in made(TRUTH)], 1,
                      lambda events: events[: len(events) // 2]),
        "whole steps of training, 2 in",
    ),
    "no marks": (lambda: _rank(made(TRUTH), 1, without("PP:")), "rank1.json: traceEvents: no action of a pipeline"),
    "a mark that is none": (
        lambda: _rank(made(TRUTH), 1, lambda events: [*events, event("PP:1X0", 1, 2)]),
        "name: expected an action such as PP:2F0, found 'PP:1X0'",
    ),
    "another run": (
        lambda: [made(TRUTH)[0], made(as_predicted(a_plan("1f1b", forward=300), 2))[1], made(TRUTH)[2]],
        "traceEvents.ts: no clocks let every message end after it began",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_what_are_no_traces_of_one_pipeline_is_told(tmp_path: Path, name: str) -> None:
    files, words = WRONG[name][0](), WRONG[name][1]
    with pytest.raises(InputError) as error:
        load_runs(written(tmp_path, files))
    assert words in str(error.value)
    assert str(tmp_path) in str(error.value), "the file is named"


def test_steps_that_are_not_whole_and_the_first_of_the_run_are_left_out(tmp_path: Path) -> None:
    truth = as_predicted(a_plan("1f1b"), 4)
    files = made(truth)
    for file in files:
        for each in file["traceEvents"]:
            if each["name"].startswith("ProfilerStep#"):
                each["name"] = f"ProfilerStep#{int(each['name'][13:]) - 1}"
    last = max(i for i, each in enumerate(files[1]["traceEvents"]) if each["name"].startswith("PP:"))
    del files[1]["traceEvents"][last]
    run = load_runs(written(tmp_path, files))
    assert len(run.trace.steps) == 2
    assert run.remarks == ("left out, not whole in all traces: ProfilerStep#3", "left out as warm-up: ProfilerStep#0")


def test_ranks_that_are_not_told_are_those_of_their_stages(tmp_path: Path) -> None:
    files = [{key: value for key, value in each.items() if key != "distributedInfo"} for each in made(TRUTH)[::-1]]
    run = load_runs(written(tmp_path, files))
    assert all(ops_of(ran.step)[0].stage == ran.rank for ran in run.trace.steps[0])


def test_a_loop_of_which_no_rank_is_told_is_refused(tmp_path: Path) -> None:
    files = [json.loads(gzip.decompress(Path(name).read_bytes())) for name in recorded("gpipe")]
    del files[2]["distributedInfo"]["rank"]
    with pytest.raises(InputError, match=r"rank2\.json: distributedInfo\.rank: missing"):
        load_runs(written(tmp_path, files))
    files[2]["distributedInfo"]["rank"] = 2
    with pytest.raises(InputError, match=r"pg_config: ranks 0, 1, 3 are no group of the job; of 4 there lack 2"):
        load_runs(written(tmp_path, [files[0], files[1], files[3]]))


def test_a_trace_of_ours_is_read_alone(tmp_path: Path) -> None:
    plan = a_plan("1f1b")
    sv.formats.save_run(as_predicted(plan), tmp_path / "run.json")
    assert load_runs([tmp_path / "run.json"]).trace == as_predicted(plan)
    with pytest.raises(InputError, match="a trace of ours holds all ranks"):
        load_runs([tmp_path / "run.json", tmp_path / "run.json"])
    with pytest.raises(InputError, match="missing"):
        load_runs([])
