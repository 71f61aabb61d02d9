"""What the commands print as JSON fits the schemas, whatever the verdict or the end of a search."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator, ValidationError

from schedverify.core.errors import Fault, InputError, ScheduleError
from schedverify.core.model import Layer, Model
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Status
from schedverify.core.schedule import Schedule
from schedverify.formats import (
    annotations_at,
    dumps,
    error_annotations,
    joint_data,
    partition_data,
    report_data,
    search_data,
    timeline_data,
)
from schedverify.formats.schema import FOLDER, main, schemas
from schedverify.generators import generate
from schedverify.partitioner.stage_problem import cut
from schedverify.planner.joint import partition_jointly
from schedverify.planner.plans import optimize
from schedverify.simulator.engine import simulate
from schedverify.verifier.verification import verify

PROBLEM = Problem.chain(ranks=2, microbatches=2, name="two")
SCHEDULES = ["0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1", "0F0 0B0 0F1 0B1\n1F0 1F1 1B0 1B1", "0F0 0F0\n-", "5W9\n0I0"]


def fits(name: str, data: Any) -> dict[str, Any]:
    printed = json.loads(dumps(data))
    Draft202012Validator(json.loads(schemas()[name])).validate(printed)
    return dict(printed)


@pytest.mark.parametrize("name", schemas())
def test_every_schema_is_one(name: str) -> None:
    Draft202012Validator.check_schema(json.loads(schemas()[name]))


@pytest.mark.parametrize("text", SCHEDULES)
@pytest.mark.parametrize("problem", [PROBLEM, None])
def test_reports_fit_their_schema(text: str, problem: Problem | None) -> None:
    report = verify(Schedule.parse(text), problem)
    assert fits("report.json", report_data(report))["ok"] is report.ok


@pytest.mark.parametrize(("select", "count"), [(["SV3", "SV4"], 11), (["SV304"], 1), ([], 1)])
def test_a_verdict_for_nothing_is_told_to_programs(select: list[str], count: int) -> None:
    report = verify(Schedule.parse(SCHEDULES[0]), PROBLEM, select=select)
    printed = fits("report.json", report_data(report))
    assert (printed["verdict"], printed["ok"]) == ("not applicable", False)
    assert all(each["remedy"] for each in printed["properties"])
    lines = annotations_at(report, "-", ()).splitlines()
    assert len(lines) == count
    assert all(line.startswith("::warning file=-,title=schedverify::") for line in lines)


def test_timelines_fit_their_schema() -> None:
    data = fits("simulate.json", timeline_data(simulate(generate("gpipe", PROBLEM), PROBLEM)))
    assert data["timeline"][0][0] == {"op": "0F0", "start": 0, "end": 1}
    with pytest.raises(ValidationError):
        fits("simulate.json", data | {"ticks": 3})


def test_partitions_fit_their_schema() -> None:
    layers = (Layer("a", 1, 2), Layer("b", 2, 4), Layer("c", 1, 2))
    data = fits("partition.json", partition_data(cut(Model("three", layers), ranks=2, microbatches=4)))
    assert data["layers"] in ([["a", "b"], ["c"]], [["a"], ["b", "c"]])
    assert (data["placement"], data["bottleneck"], data["makespan"]) == ([0, 1], 9, 36)
    found = partition_jointly(Model("three", layers), ranks=2, microbatches=2, time_limit=10, workers=1)
    jointly = json.loads(dumps(joint_data(found)))
    assert (jointly["status"], jointly["value"], jointly["gain"], jointly["partitions"]) == ("optimal", 18, 0.0, 2)


def test_annotations_stand_at_the_line_of_the_rank() -> None:
    report = verify(Schedule.parse(SCHEDULES[1]), PROBLEM)
    line = annotations_at(report, "a/s.txt", (2, 4))
    assert line.startswith("::error file=a/s.txt,line=2,title=SV201::rank 0 waits at position 1 (0B0)")
    assert annotations_at(report, "a/s.txt", ()).startswith("::error file=a/s.txt,title=SV201::rank 0 waits")


def test_no_text_in_json_is_a_command_to_a_runner() -> None:
    data = {"a##[error]b": ["##[", "###[x", "#[", "\x1b\u202e", "\n::error::x"]}
    assert "##[" not in dumps(data)
    assert "\n" not in dumps(data)
    assert dumps(data).isprintable()
    assert json.loads(dumps(data)) == data


def test_every_fault_of_a_file_is_annotated() -> None:
    faults = [Fault("line 3, column 5", "no TOML: 100%"), Fault("costs", "expected a table\n::error::x", "write one")]
    assert error_annotations(InputError(faults, "b,c:d.toml"), "a.txt") == (
        "::error file=b%2Cc%3Ad.toml,line=3,title=schedverify::line 3, column 5: no TOML: 100%25\n"
        "::error file=b%2Cc%3Ad.toml,title=schedverify::costs: expected a table\\n::error::x (write one)\n"
    )
    assert error_annotations(ScheduleError("none"), "a\n.txt") == "::error file=a\\n.txt,title=schedverify::none\n"


def test_every_end_of_a_search_fits_its_schema() -> None:
    found = optimize(PROBLEM, workers=1)
    assert fits("optimize.json", search_data(found))["gap"] == 0
    for status in (Status.INFEASIBLE, Status.UNKNOWN):
        assert fits("optimize.json", search_data(Plan(PROBLEM, status, "span", reason="why")))["status"] == status
    with pytest.raises(ValidationError):
        fits("optimize.json", search_data(found) | {"status": "done"})


def test_schemas_are_written_and_checked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["--check"]) == 1
    assert capsys.readouterr().out.count("out of date: ") == len(schemas())
    assert main([]) == 0
    assert (tmp_path / FOLDER / "plan.json").read_text(encoding="utf-8") == schemas()["plan.json"]
    (tmp_path / FOLDER / "plan.json").write_text("{}", encoding="utf-8")
    assert main(["--check"]) == 1
    assert (main([]), main(["--check"])) == (0, 0)
    assert "written: " in capsys.readouterr().out
