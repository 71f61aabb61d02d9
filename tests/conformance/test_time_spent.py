"""Where the time of a run went: what was planted is found, and what is told adds up to what the run took.

Runs are timed here, from what a plan's order and its messages say, with a delay put where a test wants one.
"""

from __future__ import annotations

import dataclasses
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

import schedverify as sv
from schedverify import formats
from schedverify.conformance import conform, data_of
from schedverify.conformance.time_spent import lines_of
from schedverify.core.result import Plan
from schedverify.core.trace import RunTrace, StepSpan
from schedverify.formats.plan_files import plan_digest
from schedverify.formats.schema import schemas
from support.run_traces import US, a_plan, as_predicted

DELAY = 5000 * US
Delays = dict[tuple[str, str], int]
"""Nanoseconds by what is late (``compute``, ``message``, ``unsent`` or ``gap``) and the step that it is about."""


def run_of(plan: Plan, delays: Delays) -> RunTrace:
    """Return a run of a chain with one stage a rank: compute in order, each message sent when it is made."""
    assert plan.lowered is not None
    problem = plan.problem
    positions = [{text: i for i, text in enumerate(row)} for row in plan.lowered.schedule.strings()]
    ends: dict[str, int] = {}
    spans: list[StepSpan] = []
    free, left = [0] * problem.ranks, [list(row) for row in plan.schedule.strings()] if plan.schedule else []
    while any(left):
        for rank, row in enumerate(left):
            while row:
                step = row[0]
                kind, m = step[1], step[2:]
                source = {"F": rank - 1, "W": -1}.get(kind, rank + 1)
                made, letter = f"{source}{kind}{m}", "F" if kind == "F" else "B"
                crosses = 0 <= source < problem.ranks
                if crosses and made not in ends:
                    break
                came = 0
                if crosses:
                    sent = ends[made] + delays.get(("unsent", step), 0)
                    came = sent + 3 * US + delays.get(("message", step), 0)
                    send, receive = f"{source}SEND_{letter}{m}", f"{rank}RECV_{letter}{m}"
                    spans.append(StepSpan(source, positions[source][send], send, sent, sent))
                    spans.append(StepSpan(rank, positions[rank][receive], receive, sent, came))
                start = max(free[rank], came) + delays.get(("gap", step), 0)
                took = problem.step_duration((sv.Op.parse(step),)) * US + delays.get(("compute", step), 0)
                spans.append(StepSpan(rank, positions[rank][step], step, start, start + took))
                ends[step] = free[rank] = start + took
                row.pop(0)
    return RunTrace(plan_digest(plan), problem.ranks, (tuple(sorted(spans)),), (0,) * problem.ranks)


PLANS = {name: a_plan(name, microbatches=6) for name in ("1f1b", "gpipe", "zb-h1")}
STEPS = {
    name: [text for row in plan.schedule.strings() for text in row] for name, plan in PLANS.items() if plan.schedule
}


def crosses(step: str) -> bool:
    """Whether a step of three ranks reads a message: no first forward, no last gradient, no weight part."""
    return (step[1] == "F" and step[0] != "0") or (step[1] in "BI" and step[0] != "2")


@pytest.mark.parametrize("name", PLANS)
def test_a_run_as_predicted_has_nothing_more(name: str) -> None:
    spent = conform(PLANS[name], as_predicted(PLANS[name])).spent
    assert all(each.more == 0 for each in spent.stretches)
    assert not spent.longest(5)
    assert spent.took("gap") == 0
    assert spent.makespan == spent.took("compute") + spent.took("message") == conform(
        PLANS[name], as_predicted(PLANS[name])
    ).measured  # fmt: skip


@given(st.sampled_from(sorted(PLANS)), st.sampled_from(["compute", "message", "unsent", "gap"]), st.data())
@settings(deadline=None, max_examples=150)
def test_a_long_delay_is_found_where_it_was_planted(name: str, what: str, data: st.DataObject) -> None:
    """It is longer than all the rest, so every way to the last end goes through it."""
    plan = PLANS[name]
    step = data.draw(
        st.sampled_from(
            [each for each in STEPS[name] if what == "compute" or crosses(each) or (what == "gap" and each != "0F0")]
        )
    )
    found = conform(plan, run_of(plan, {(what, step): DELAY}))
    first = found.spent.longest(1)[0]
    assert (first.what, first.step) == ("message" if what == "unsent" else what, step)
    assert first.rank == int(step[0])
    assert first.more == DELAY
    assert first.unsent == (DELAY if what == "unsent" else 0)
    assert found.spent.makespan == found.measured
    told = "\n".join(lines_of(found.spent))
    assert "+5.000 ms" in told
    assert f"more on rank {step[0]}, ms: " in told


@given(st.sampled_from(sorted(PLANS)), st.data())
@settings(deadline=None, max_examples=100)
def test_what_is_told_adds_up(name: str, data: st.DataObject) -> None:
    """With delays of any kind everywhere: the stretches follow each other, and each begins where one ends."""
    plan = PLANS[name]
    kinds = st.tuples(st.sampled_from(["compute", "message", "unsent", "gap"]), st.sampled_from(STEPS[name]))
    delays = data.draw(st.dictionaries(kinds, st.integers(0, 200 * US), max_size=20))
    trace = run_of(plan, delays)
    found = conform(plan, trace)
    spent = found.spent
    assert spent.makespan == found.measured == sum(each.took for each in spent.stretches)
    assert all(each.took > 0 or each.what != "gap" for each in spent.stretches)
    for each in spent.stretches:
        if each.what == "gap":
            assert each.took == delays[("gap", each.step)]
        if each.what == "message":
            late = [delays.get((what, each.step), 0) for what in ("message", "unsent")]
            assert (each.took, each.unsent) == (3 * US + sum(late), late[1])
    at = min(span.start for span in trace.steps[0])
    spans = {span.step: span for span in trace.steps[0]}
    for each in spent.stretches:
        at += each.took
        if each.what == "compute":
            assert (spans[each.step].start, spans[each.step].end) == (at - each.took, at)
    Draft202012Validator(json.loads(schemas()["conform.json"])).validate(json.loads(formats.dumps(data_of(found))))


def test_what_ran_in_a_gap_is_named() -> None:
    plan = PLANS["1f1b"]
    trace = run_of(plan, {("gap", "1F2"): DELAY})
    late = next(span for span in trace.steps[0] if span.step == "1F2")
    held = [span._replace(end=late.start) if span.step == "1SEND_F1" else span for span in trace.steps[0]]
    (gap,) = conform(plan, dataclasses.replace(trace, steps=(tuple(held),))).spent.longest(1)
    assert gap.source == "1SEND_F1"
    assert str(gap).endswith("in front of 1F2, for which nothing was missing; 1SEND_F1 ran meanwhile")


def test_a_run_in_disorder_comes_to_an_end() -> None:
    """Steps that each began before the other had ended lead round in a circle; each stands once all the same."""
    plan = PLANS["1f1b"]
    trace = run_of(plan, {})
    early = [span._replace(start=span.start - 100 * US) if span.step[1] == "B" else span for span in trace.steps[0]]
    swapped = [span._replace(start=0, end=10**9) if span.step in ("0F0", "1F0", "2F0") else span for span in early]
    for steps in (early, swapped, early[:3]):
        spent = conform(plan, dataclasses.replace(trace, steps=(tuple(steps),))).spent
        names = [each.step for each in spent.stretches if each.what == "compute"]
        assert len(names) == len(set(names))
