"""What lacks is told as runs, fifty violations of a code at most, at a cost that follows what stands."""

from __future__ import annotations

import json
import tracemalloc
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from oracle.compute_orders import missing_runs
from schedverify import Problem, Report, Schedule, ScheduleError, verify
from schedverify.cli.app import main
from schedverify.core.result import MOST_TOLD
from schedverify.drawing import draw
from schedverify.formats.outputs import annotations_at, report_data
from schedverify.formats.schema import schemas
from support.mutants import mutant

CODES = ("SV1", "SV2", "SV3", "SV4")


def judged(text: str, *codes: str, problem: Problem | None = None, excerpt: bool = False) -> Report:
    return verify(Schedule.parse(text), problem, select=codes or None, excerpt=excerpt)


def runs(report: Report, code: str = "SV103") -> list[tuple[tuple[str, ...], int]]:
    return [(violation.operations, violation.count) for violation in report[code].violations]


def test_successive_operations_that_lack_are_one_violation() -> None:
    report = judged("0F0 0F655353 0B0", "SV103")
    assert runs(report) == [(("0F1", "0F655352"), 655352), (("0B1", "0B655353"), 655353)]
    assert [violation.message for violation in report.violations] == [
        "0F1 to 0F655352 stand nowhere; stage 0 is on rank 0",
        "0B1 to 0B655353 stand nowhere; stage 0 is on rank 0",
    ]
    (first, second) = report_data(report)["properties"][0]["violations"]
    assert (first["operations"], first["count"]) == (("0F1", "0F655352"), 655352)
    assert second["operations"] == ("0B1", "0B655353")
    assert report_data(report)["properties"][0]["more"] == 0


@pytest.mark.parametrize(
    ("text", "problem", "expected"),
    [
        ("0F0", {"ranks": 1, "microbatches": 1}, [(("0B0",), 1)]),
        ("0F1 0B1", {"ranks": 1, "microbatches": 3}, [
            (("0F0",), 1), (("0F2",), 1), (("0B0",), 1), (("0B2",), 1)]),
        ("-", {"ranks": 1, "microbatches": 2, "form": "split"}, [
            (("0F0", "0F1"), 2), (("0I0", "0I1"), 2), (("0W0", "0W1"), 2)]),
        ("0F0 0F1 0F2 0B1 0I0 0W2", {"ranks": 1, "microbatches": 3, "form": "split"}, [(("0I2",), 1), (("0W0",), 1)]),
        ("0F2\n2F0", {"ranks": 2, "microbatches": 4, "replicas": 2, "form": "inference"}, [
            (("0F0", "0F1"), 2), (("1F0", "1F1"), 2), (("2F2", "2F3"), 2), (("3F2", "3F3"), 2)]),
        ("-\n-", {"ranks": 2, "microbatches": 4, "replicas": 2, "form": "inference", "replica_of": [0, 1, 0, 0]}, [
            (("0F0",), 1), (("0F2", "0F3"), 2), (("1F0",), 1), (("1F2", "1F3"), 2), (("2F1",), 1), (("3F1",), 1)]),
    ],
)  # fmt: skip
def test_runs_end_where_something_stands_or_does_not_pass(text, problem, expected) -> None:  # type: ignore[no-untyped-def]
    assert runs(judged(text, "SV103", problem=Problem.chain(**problem))) == expected


def test_runs_are_those_of_the_oracle() -> None:
    compared = 0
    for seed in range(600):
        problem, rows, name = mutant(seed)
        expected = missing_runs(rows, problem.to_dict())
        found = runs(verify(Schedule.of(rows), problem, select=["SV103"]))
        assert sorted(found) == sorted(expected)[:MOST_TOLD], f"mutant {seed}: {name}"
        compared += bool(expected)
    assert compared > 60


def test_messages_that_lack_are_runs_too() -> None:
    report = judged("0F0 0SEND_F0 0F9999999\n1RECV_F0 1F0", "SV301")
    (violation,) = report.violations
    assert (violation.operations, violation.count) == (("0SEND_F1", "0SEND_F9999999"), 9_999_999)
    assert violation.message == (
        "rank 1 (1F1 to 1F9999999): what they read of stage 0 is not sent, "
        "0SEND_F1 to 0SEND_F9999999 and 1RECV_F1 to 1RECV_F9999999 are missing"
    )
    report = judged("0F0 0SEND_F0 0F1 0F2 0F3 0F4\n1RECV_F0 1F0 1F2", "SV301")
    assert [(v.rank, v.position, v.operations) for v in report.violations] == [
        (1, None, ("1F1", "0SEND_F1", "1RECV_F1")),
        (1, 2, ("1F2", "0SEND_F2", "1RECV_F2")),
        (1, None, ("0SEND_F3", "0SEND_F4")),
    ]
    assert not judged("0F0 0SEND_F0 0F1 0F9\n1RECV_F0 1F0", "SV301", excerpt=True).violations


MANY = " ".join(f"0F{2 * i}" for i in range(200)) + " " + "0B0 " * 61
"""An order that lacks 199 runs of F, and repeats a B sixty times."""


def test_fifty_violations_of_a_code_are_told_and_the_others_counted(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    report = judged(MANY, "SV1", problem=Problem.chain(ranks=1, microbatches=399))
    lacking = 199 + 1
    assert {result.code: (len(result.violations), result.more) for result in report.properties} == {
        "SV101": (0, 0), "SV102": (0, 0), "SV103": (MOST_TOLD, lacking - MOST_TOLD), "SV104": (MOST_TOLD, 10),
    }  # fmt: skip
    assert len(report.violations) == 2 * MOST_TOLD
    assert report.violation_count == lacking + 60
    assert "SV103: and 150 more violations" in str(report)
    assert "SV104: and 10 more violations" in str(report)
    assert repr(report) == "<Report: violated, 260 violations of SV103, SV104>"
    data = report_data(report)
    Draft202012Validator(json.loads(schemas()["report.json"])).validate(json.loads(json.dumps(data)))
    assert [result["more"] for result in data["properties"]] == [0, 0, 150, 10]
    with pytest.raises(ScheduleError, match="SV103: and 150 more violations"):
        report.raise_for_violations()
    path = tmp_path / "order.txt"
    path.write_text(MANY)
    annotations = annotations_at(report, str(path), [1]).splitlines()
    assert len(annotations) == 2 * (MOST_TOLD + 1)
    assert annotations[MOST_TOLD].endswith(",title=SV103::SV103: and 150 more violations")
    assert "and 210 more violations" in draw(Schedule.parse(MANY), report=report).svg()
    assert main(["verify", str(path), "--select", "SV1"]) == 1
    assert "SV104: and 10 more violations" in capsys.readouterr().out
    case = tmp_path / "order.schedule.toml"
    case.write_text(f'schedule = "{MANY}"\nselect = ["SV1"]\n[problem]\nranks = 1\nmicrobatches = 399\n'
                    "[problem.costs]\nforward = 1\nbackward = 2\n")  # fmt: skip
    assert main(["lint", str(case)]) == 1
    assert "SV103: and 150 more violations" in capsys.readouterr().out


SMALL = {
    "few of many micro-batches": "0F0 0F655353 0B0",
    "most micro-batches": "0F0 0F16777214 0B0",
    "many micro-batches": "0F9999999",
    "the last stage": "65534F0",
    "many stages and micro-batches": "4000F20000 9I3",
    "messages": "0F0 0SEND_F0 0F999999\n1RECV_F0 1F0",
    "gathered": "0UNSHARD 0F9999999 0REDUCE_GRAD",
}


@pytest.mark.parametrize("name", SMALL)
def test_memory_and_violations_follow_what_stands(name: str) -> None:
    schedule = Schedule.parse(SMALL[name])
    tracemalloc.start()
    try:
        report = verify(schedule, select=CODES)
        assert tracemalloc.get_traced_memory()[1] < 200_000_000
    finally:
        tracemalloc.stop()
    assert report["SV103"].violations
    assert all(len(result.violations) <= MOST_TOLD for result in report.properties)
    assert len(json.dumps(report_data(report))) < 100_000
