"""Lowering for a discipline: the fastest of the safe orders, once the verifier has proved it."""

from __future__ import annotations

import dataclasses
from collections import Counter

import pytest

from schedverify import lowering
from schedverify.core.discipline import DEFAULT_DISCIPLINE, Discipline
from schedverify.core.errors import InputError, ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.generators import generate
from schedverify.lowering import add_communication
from schedverify.planner import proved_lowering
from schedverify.planner.proved_lowering import RefusedLoweringError, lower
from schedverify.simulator.engine import simulate
from schedverify.verifier.verification import verify
from support.call_counts import calls_of
from support.random_schedules import base


@pytest.mark.parametrize("discipline", Discipline)
def test_what_is_handed_out_is_proved_and_no_slower_than_the_default(discipline: str) -> None:
    for number in range(40):
        found = base(number)
        problem = unlimited(found.problem)
        order = Schedule.of(found.rows)
        lowered = lower(order, problem, discipline=discipline, eager_bytes=number % 3)
        options = {"discipline": discipline, "eager_bytes": number % 3}
        assert verify(lowered, problem, **options).ok, f"base {number}"
        assert lowered.compute_only() == order
        default = simulate(add_communication(order, problem), problem, **options)
        best = simulate(lowered, problem, **options)
        assert best.makespan <= default.makespan, f"base {number}"


def unlimited(problem: Problem) -> Problem:
    return dataclasses.replace(problem, capacity=None, in_flight=None, in_flight_stage=None, makespan_limit=None)


def test_what_the_verifier_calls_violated_is_not_handed_out() -> None:
    seen = Counter[bool]()
    for number in range(120):
        found = base(number)
        data = found.problem.to_dict()
        stages = range(found.problem.total_stages)
        data["links"] = data["links"] | {"bytes": [number % 4 + s % 2 for s in stages], "buffer": 1 + number % 2}
        problem, order = Problem.of(data), Schedule.of(found.rows)
        discipline = [None, *Discipline][number % 7]
        options = {"discipline": discipline or DEFAULT_DISCIPLINE, "eager_bytes": number % 3}
        default = verify(add_communication(order, problem), problem, **options)
        try:
            lowered = lower(order, problem, discipline=discipline, eager_bytes=number % 3)
        except ScheduleError as error:
            told = {line.partition(" ")[0] for line in str(error).splitlines()[1:]}
            right = told <= {"SV401", "SV402", "SV403"} and bool(default.violations)
        else:
            told = set()
            right = not verify(lowered, problem, **options).violations
        assert right, f"base {number}: {told}"
        seen[bool(told)] += 1
    assert min(seen.values()) > 20, seen


def test_received_bytes_beyond_the_capacity_are_told() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, bytes=6, capacity=3)
    order = generate("1f1b", problem)
    for options in ({}, {"discipline": "pair"}):
        with pytest.raises(
            ScheduleError, match=r"SV402 rank 0 holds 7 units, 4 units over its 3 units, at position 2\nSV402 rank 1"
        ):
            lower(order, problem, **options)


def test_a_full_buffer_is_told_or_another_order_found() -> None:
    problem = Problem.chain(ranks=2, microbatches=3, buffer=1)
    with pytest.raises(ScheduleError, match="SV403 rank 0, position 3"):
        lower(generate("gpipe", problem), problem, discipline="buffered")
    assert verify(lower(generate("gpipe", problem), problem), problem).ok  # each send waits for its receive
    eager = Problem.chain(ranks=2, microbatches=3, buffer=1, bytes=4)
    with pytest.raises(ScheduleError, match="SV403"):
        lower(generate("gpipe", eager), eager, eager_bytes=4)


def test_declared_bytes_that_are_others_are_told_of_the_schedule() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, bytes=6, boundaries=[{"from": 0, "to": 1, "bytes": 5}])
    for options in ({}, {"discipline": "pair"}):
        with pytest.raises(ScheduleError, match="SV306 rank 0, position 1"):
            lower(generate("1f1b", problem), problem, **options)


def test_what_the_verifier_refuses_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.chain(ranks=2, microbatches=1)
    order = generate("1f1b", problem)
    hanging = Schedule.parse("0F0 0RECV_B0 0SEND_F0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0")
    wrong = simulate(hanging, problem, discipline="tagged")
    made = lowering.timed_lowerings
    monkeypatch.setattr(proved_lowering, "timed_lowerings", lambda *given, waits: [wrong, *made(*given, waits=waits)])
    assert lower(order, problem, discipline="pair") == lower(order, problem)
    monkeypatch.setattr(proved_lowering, "timed_lowerings", lambda *_, waits: [wrong])
    with pytest.raises(RefusedLoweringError, match="please report this:\nSV304"):
        lower(order, problem, discipline="pair")


def test_options_are_checked() -> None:
    problem = Problem.chain(ranks=1, microbatches=1, form="inference")
    with pytest.raises(InputError, match=r"unknown discipline 'blocking'.*did you mean 'block'"):
        lower(Schedule.parse("0F0"), problem, discipline="blocking")
    for options in ({}, {"discipline": "pair"}):
        with pytest.raises(InputError, match="eager_bytes"):
            lower(Schedule.parse("0F0"), problem, eager_bytes=-1, **options)


def test_the_work_of_lowering_grows_with_the_operations_however_many_ranks() -> None:
    def calls(ranks: int) -> int:
        problem = Problem.chain(ranks=ranks, microbatches=1)
        order = generate("gpipe", problem)
        return calls_of(lambda: lower(order, problem))

    calls(2)  # what is loaded or compiled once
    assert calls(240) < 2.2 * calls(120)
