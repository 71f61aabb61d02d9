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
