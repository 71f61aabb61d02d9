"""The command ``trace``, and ``conform`` with torch.profiler's traces: what they print and write, and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

import schedverify as sv
from schedverify import formats
from schedverify.cli import main
from schedverify.formats.schema import schemas
from support.profiler_files import made, recorded, written
from support.run_traces import a_plan, as_predicted

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_it_tells_the_order_and_writes_it_with_its_problem(capsys: Capture) -> None:
    assert (
        main(["trace", *recorded("interleaved"), "-o", "problem.toml", "--schedule", "order.txt", "--time-limit", "0"])
        == 0
    )
    out = capsys.readouterr().out
    assert "the order that ran    interleaved-1f1b\n" in out
    assert "the best order" not in out
    assert main(["verify", "order.txt", "--problem", "problem.toml"]) == 0
    problem = sv.load("problem.toml")
    assert isinstance(problem, sv.Problem)
    assert sv.load("order.txt") == sv.generate("interleaved-1f1b", problem)


def test_it_tells_what_the_best_order_takes(capsys: Capture) -> None:
    assert main(["trace", *recorded("gpipe"), "--time-limit", "5"]) == 0
    assert "  the best order      " in capsys.readouterr().out
    assert main(["trace", *recorded("gpipe"), "--time-limit", "1", "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    Draft202012Validator(json.loads(schemas()["observed.json"])).validate(data)
    assert data["family"] == "gpipe"
    assert data["best"]["value"] * 1000 <= data["predicted"]


def test_an_order_of_torch_has_the_name_that_generate_takes(capsys: Capture) -> None:
    pytest.importorskip("torch", reason="torch is not installed")
    assert main(["trace", *recorded("dualpipev"), "--time-limit", "0"]) == 0
    assert "the order that ran    torch:DualPipeV\n" in capsys.readouterr().out


def test_a_trace_of_ours_is_told_as_well(capsys: Capture) -> None:
    formats.save_run(as_predicted(a_plan("1f1b")), "run.json")
    assert main(["trace", "run.json", "--time-limit", "0"]) == 0
    assert "the order that ran    1f1b\n" in capsys.readouterr().out


def test_conform_takes_the_traces_of_torch(desk: Path, capsys: Capture) -> None:
    sv.save(a_plan("1f1b"), "plan.json")
    files = written(desk, made(as_predicted(a_plan("1f1b"), 2), bare=True))
    assert main(["conform", "plan.json", *files, "-o", "measured.toml", "--draw", "run.svg"]) == 0
    told = capsys.readouterr()
    assert told.out.startswith("the run followed the plan in 2 steps\n")
    assert "  rank  computes ms   waits for a peer   for a send   for its own work\n" in told.out
    assert "some waits are not told from work" in told.err
    assert Path("run.svg").read_text(encoding="utf-8").startswith("<svg")
    sv.save(a_plan("gpipe"), "other.json")
    assert main(["conform", "other.json", *files]) == 1
    assert "1B0 ran there" in capsys.readouterr().out


@pytest.mark.parametrize(("words", "told"), [
    (["trace"], "trace: missing"),
    (["trace", "absent.json"], "absent.json: no such file"),
    (["trace", "order.txt"], "order.txt: line 1, column 2: no JSON"),
    (["trace", "rank0.json", "rank1.json"], "rank1.json: traceEvents: stage 2 computes in none of the 2 traces"),
    (["trace", "rank0.json", "-o", "rank0.json"], "rank0.json"),
    (["conform", "plan.json", "rank0.json"], "traceEvents: stage 1 computes in none of the 1 traces"),
    (["conform", "small.json", "rank0.json", "rank1.json", "rank2.json"], "3 ranks, the plan has 2"),
])  # fmt: skip
def test_wrong_files_are_told_in_a_line(desk: Path, capsys: Capture, words: list[str], told: str) -> None:
    sv.save(a_plan("1f1b"), "plan.json")
    sv.save(a_plan("1f1b", ranks=2), "small.json")
    Path("order.txt").write_text("0F0 0B0\n", encoding="utf-8")
    written(desk, made(as_predicted(a_plan("1f1b"))))
    assert main(words) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1
    assert told in lines[0].replace(f"{desk}/", "")
