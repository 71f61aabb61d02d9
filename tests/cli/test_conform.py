"""The command ``conform``: what it prints and writes, its exit codes, and a real run."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import schedverify as sv
from schedverify import formats
from schedverify.cli import main
from schedverify.core.trace import StepSpan
from schedverify.formats.schema import schemas
from support.recorder_dumps import Run
from support.run_traces import a_plan, as_predicted, changed


def lose(step: list[StepSpan]) -> None:
    step.remove(next(ran for ran in step if ran.step == "2W3"))


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
        assert [line.split()[:3] for line in capsys.readouterr().out.splitlines()] == [
            ["step", step, "loss"] for step in "012"
        ]
        Draft202012Validator(json.loads(schemas()["trace.json"])).validate(json.loads(Path("real.json").read_text()))
        assert main(["conform", "plan.json", "real.json", "--format", "json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["ok"]
        assert found["peaks"] == found["allowed"]
        assert len(found["makespans"]) == 3


def test_dumps_of_flight_recorders_name_the_cycle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    order = tmp_path / "order.txt"
    order.write_text("0F0 0RECV_B0 0SEND_F0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0\n")
    rows = [line.split() for line in order.read_text().splitlines()]
    files = [tmp_path / f"nccl_trace_rank_{rank}" for rank in range(2)]
    for file, dump in zip(files, Run(rows, [0, 1]).dumps(), strict=True):
        file.write_text(json.dumps(dump))
    given = ["conform", str(order), *map(str, files)]
    assert main(given) == 1
    printed = capsys.readouterr()
    assert "the run hangs: rank 0 waits at position 1 (0RECV_B0 from rank 1)" in printed.out
    assert "no problem is given" in printed.err
    assert main([*given, "--format", "json"]) == 1
    assert [state["begun"] for state in json.loads(capsys.readouterr().out)["ranks"]] == [2, 1]
    assert main([*given, "-o", str(tmp_path / "measured.toml")]) == 2
    assert "keeps no times" in capsys.readouterr().err
    files[1].write_text("{}")
    assert main(given) == 2
    assert "pg_config: expected the ranks of each process group" in capsys.readouterr().err
