"""A run without a plan: the order, its family, causes of bubbles, what is predicted, and the best order."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator

import schedverify as sv
from schedverify import formats
from schedverify.conformance.bubble_causes import rank_times
from schedverify.conformance.observed_run import best_of, data_of_observed, observe, observed_lines
from schedverify.conformance.run_files import load_runs
from schedverify.core.errors import InputError
from schedverify.core.trace import RunTrace, StepSpan
from schedverify.formats.schema import schemas
from support.profiler_files import recorded
from support.run_traces import US, a_plan, as_predicted


@pytest.mark.parametrize("name", ["1f1b", "gpipe", "zb-h1", "naive"])
def test_a_run_as_predicted_is_what_was_planned(name: str) -> None:
    plan = a_plan(name)
    assert plan.schedule is not None
    assert plan.measures is not None
    found = observe(as_predicted(plan, 3))
    assert found.family == name
    assert found.order == plan.schedule
    assert found.measured == found.predicted.makespan * US == plan.measures.makespan * US
    assert found.problem.forward == (20, 20, 20)
    assert {lag for row in found.problem.latency for lag in row} == {3}
    assert found.problem.in_flight == plan.measures.peak_in_flight
    assert found.bubble == pytest.approx(float(plan.measures.bubble_fraction))
    Draft202012Validator(json.loads(schemas()["observed.json"])).validate(
        json.loads(formats.dumps(data_of_observed(found, None)))
    )


def test_the_best_order_is_one_that_can_run_in_the_same_room() -> None:
    found = observe(as_predicted(a_plan("naive", microbatches=3), 1))
    best = best_of(found, 5)
    assert best is not None
    assert best.status.value == "optimal"
    assert best.value is not None
    assert best.value <= found.predicted.makespan
    told = "\n".join(observed_lines(found, best))
    assert "the best order" in told
    assert "proved optimal" in told
    data = json.loads(formats.dumps(data_of_observed(found, best)))
    Draft202012Validator(json.loads(schemas()["observed.json"])).validate(data)
    assert sv.verify(sv.Schedule.of(data["best"]["schedule"]), found.problem).ok


def test_a_recorded_run_is_told() -> None:
    found = observe(*load_runs(recorded("interleaved")))
    assert found.family == "interleaved-1f1b"
    assert found.problem.owner_rank == (0, 1, 2, 3, 0, 1, 2, 3)
    told = list(observed_lines(found, None))
    assert told[0] == "4 ranks, 8 stages, 8 micro-batches; 2 steps of training"
    assert any(line.startswith("  F of stage 7    16 ") for line in told)


def test_steps_of_another_order_count_for_nothing() -> None:
    steps = as_predicted(a_plan("1f1b"), 2).steps + as_predicted(a_plan("gpipe"), 1).steps
    found = observe(RunTrace("", 3, steps, (0, 0, 0)))
    assert found.family == "1f1b"
    assert found.remarks == ("1 of 3 steps of training ran another order; they count for nothing",)
    with pytest.raises(InputError, match="nothing that computes"):
        observe(RunTrace("", 3, ((),), (0, 0, 0)))


def test_what_a_rank_waits_for() -> None:
    """By hand: rank 1 waits 10 for 0F0, 2 for its message; comes 1 late; rank 0 is done 7 before rank 1 is."""
    problem = sv.Problem.chain(ranks=2, microbatches=2, form="inference")
    step = [
        StepSpan(0, 0, "0F0", 0, 10), StepSpan(0, 1, "0SEND_F0", 10, 11), StepSpan(0, 2, "0F1", 14, 20),
        StepSpan(0, 3, "0SEND_F1", 20, 21), StepSpan(0, 4, "0WAIT_SEND_F0", 11, 13),
        StepSpan(1, 0, "1RECV_F0", 0, 12), StepSpan(1, 1, "1F0", 12, 15, 0), StepSpan(1, 2, "1RECV_F1", 15, 24),
        StepSpan(1, 3, "1F1", 24, 27, 22),
    ]  # fmt: skip
    assert [each[1:] for each in rank_times(problem, step)] == [(16, 7, 2, 2), (6, 15, 4, 2)]
    assert [each.idle for each in rank_times(problem, step)] == [11, 21]
    assert [each[1:] for each in rank_times(problem, [])] == [(0, 0, 0, 0)] * 2
