"""Where a new lowering is named as the cure of a violation, and where it is not."""

from __future__ import annotations

import pytest

from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.planner.proved_lowering import lower
from schedverify.verifier.cures import CURED_BY_LOWERING, cured_in
from schedverify.verifier.verification import verify

PROBLEM = Problem.chain(ranks=2, microbatches=2)
BROKEN = {
    "SV301": "0F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1\n1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
    "SV302": "0F0 0F1 0SEND_F1 0SEND_F0 0RECV_B0 0B0 0RECV_B1 0B1\n1RECV_F0 1F0 1RECV_F1 1B0 1SEND_B0 1F1 1B1 1SEND_B1",
    "SV303": "0SEND_F0 0F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1\n1RECV_F0 1F0 1B0 1RECV_F1 1SEND_B0 1F1 1B1 1SEND_B1",
    "SV304": "0F0 0RECV_B0 0SEND_F0 0F1 0SEND_F1 0B0 0RECV_B1 0B1\n1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1",
}


@pytest.mark.parametrize("code", CURED_BY_LOWERING)
def test_the_cure_is_named_and_cures(code: str) -> None:
    schedule = Schedule.parse(BROKEN[code])
    report = cured_in(verify(schedule, PROBLEM), "my file.txt", "p.toml")
    assert report[code].violations
    cure = "schedverify lower 'my file.txt' --problem p.toml --again keeps the computing"
    assert report[code].remedy.startswith(cure)
    assert str(report).count(cure) == 1
    assert verify(lower(schedule, PROBLEM, again=True), PROBLEM, discipline="block").ok
    assert [each.code for each in report.properties if "--again" in each.remedy] == [
        each.code for each in report.properties if each.violations
    ]


def test_an_operation_out_of_range_that_only_moves_tensors_is_cured_too() -> None:
    schedule = Schedule.parse(BROKEN["SV301"].replace("0SEND_F1", "0SEND_F1 0SEND_F7"))
    assert "--again" in verify(schedule, PROBLEM)["SV301"].remedy


@pytest.mark.parametrize(
    "text",
    [
        "0F0 0SEND_F0 0B0 0F1 0B1\n1F0 1F1 1B0 1B1",  # the computing cannot run
        "0F0 0SEND_F0 0F1 0RECV_B0 0B0 0B1\n1F0 1F1 1B0",  # nor is it complete
    ],
)
def test_no_cure_is_named_where_the_computing_is_wrong(text: str) -> None:
    report = verify(Schedule.parse(text), PROBLEM)
    assert report["SV301"].violations
    assert not any("--again" in each.remedy for each in report.properties)


def test_waits_are_made_again_where_some_stand() -> None:
    schedule = Schedule.parse(BROKEN["SV304"].replace("0SEND_F1", "0SEND_F1 0WAIT_SEND_F1"))
    report = cured_in(verify(schedule, PROBLEM), "x.csv", None)
    assert report["SV304"].remedy.startswith("schedverify lower x.csv --again --waits keeps the computing")
    assert "WAIT_SEND_B1" in str(lower(schedule, PROBLEM, again=True, waits=True))


def test_an_excerpt_cannot_be_lowered() -> None:
    schedule = Schedule.parse(BROKEN["SV304"])
    assert verify(schedule, PROBLEM)["SV304"].remedy
    assert not verify(schedule, PROBLEM, excerpt=True)["SV304"].remedy
