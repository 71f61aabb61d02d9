"""Lowering for a discipline: the fastest of the safe orders, once the verifier has proved it."""

from __future__ import annotations

import pytest

from schedverify import lowering
from schedverify.core.discipline import Discipline
from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.generators import generate
from schedverify.lowering import add_communication
from schedverify.planner import proved_lowering
from schedverify.planner.proved_lowering import RefusedLoweringError, lower
from schedverify.simulator.engine import simulate
from schedverify.verifier.verification import verify
from support.random_schedules import base


@pytest.mark.parametrize("discipline", Discipline)
def test_what_is_handed_out_is_proved_and_no_slower_than_the_default(discipline: str) -> None:
    for number in range(40):
        found = base(number)
        order = Schedule.of(found.rows)
        lowered = lower(order, found.problem, discipline=discipline, eager_bytes=number % 3)
        options = {"discipline": discipline, "eager_bytes": number % 3}
        assert verify(lowered, found.problem, select=["SV1", "SV2", "SV3"], **options).ok, f"base {number}"
        assert lowered.compute_only() == order
        default = simulate(add_communication(order, found.problem), found.problem, **options)
        best = simulate(lowered, found.problem, **options)
        assert best.makespan <= default.makespan or found.problem.capacity is not None, f"base {number}"


def test_what_the_verifier_refuses_is_not_handed_out(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.chain(ranks=2, microbatches=1)
    order = generate("1f1b", problem)
    hanging = Schedule.parse("0F0 0RECV_B0 0SEND_F0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0")
    wrong = simulate(hanging, problem, discipline="tagged")
    monkeypatch.setattr(proved_lowering, "timed_lowerings", lambda *given: [wrong, *lowering.timed_lowerings(*given)])
    assert lower(order, problem, discipline="pair") == lower(order, problem)
    monkeypatch.setattr(proved_lowering, "timed_lowerings", lambda *_: [wrong])
    with pytest.raises(RefusedLoweringError, match="please report this:\nSV304"):
        lower(order, problem, discipline="pair")


def test_options_are_checked() -> None:
    problem = Problem.chain(ranks=1, microbatches=1, form="inference")
    with pytest.raises(InputError, match=r"unknown discipline 'blocking'.*did you mean 'block'"):
        lower(Schedule.parse("0F0"), problem, discipline="blocking")
    for options in ({}, {"discipline": "pair"}):
        with pytest.raises(InputError, match="eager_bytes"):
            lower(Schedule.parse("0F0"), problem, eager_bytes=-1, **options)
