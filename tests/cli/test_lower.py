"""The command ``lower``: the default lowering, one for a discipline, and what it refuses."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest

from schedverify.cli import main
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.formats import load_schedule
from schedverify.generators import generate
from schedverify.planner.proved_lowering import lower


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main([*arguments])
    printed = capsys.readouterr()
    return code, printed.out, " ".join(printed.err.split())


@pytest.fixture
def order(tmp_path: Path) -> str:
    (tmp_path / "order.txt").write_text("0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1\n")
    return str(tmp_path / "order.txt")


def test_the_command_writes_the_default_lowering(order: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, err = run(capsys, "lower", order)
    problem = Problem.chain(ranks=2, microbatches=2)
    assert (code, Schedule.parse(out)) == (0, lower(generate("1f1b", problem), problem))
    assert "no problem is given" in err
    assert "free of deadlock under every discipline" in err


def test_the_command_lowers_for_a_discipline_and_adds_what_is_asked(
    order: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    target = tmp_path / "lowered.csv"
    code, out, err = run(
        capsys, "lower", order, "--discipline", "rank", "--unshard", "--reduce-grad", "-o", str(target)
    )
    assert (code, out) == (0, "")
    assert "proved free of deadlock under rank" in err
    assert str(load_schedule(target)).splitlines()[1].endswith("1B1 1REDUCE_GRAD 1RESHARD 1SEND_B1")


def test_the_command_refuses(order: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "lowered.txt").write_text("0F0 0SEND_F0 0RECV_B0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0\n")
    assert run(capsys, "lower", str(tmp_path / "lowered.txt"))[0] == 1
    (tmp_path / "stuck.txt").write_text("0F0 0B0 0F1 0B1\n1F0 1F1 1B0 1B1\n")
    code, out, err = run(capsys, "lower", str(tmp_path / "stuck.txt"))
    assert (code, out) == (1, "")
    assert "cannot run to its end" in err
    assert run(capsys, "lower", order, "--discipline", "pairs")[0] == 2
    assert run(capsys, "lower", order, "--eager-bytes", "-1")[0] == 2


def test_what_verify_calls_violated_is_told_and_not_written(
    order: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    problem = tmp_path / "p.toml"
    text = "ranks = 2\nmicrobatches = 2\n[costs]\nforward = 1\nbackward = 2\n"
    problem.write_text(text + "[links]\nbytes = 6\n[memory]\ncapacity = 3\n")
    for options in ([], ["--discipline", "pair"], ["--unshard"]):
        code, out, err = run(capsys, "lower", order, "--problem", str(problem), *options)
        assert (code, out) == (1, "")
        assert "SV402 rank 0 holds 8 units, 5 units over its 3 units, at position 4" in err
    problem.write_text(text + "[links]\nbuffer = 1\n")
    code, out, err = run(capsys, "lower", order, "--problem", str(problem), "--discipline", "buffered")
    assert (code, out) == (1, "")
    assert "SV403 rank 0, position 3" in err
    code, out, err = run(capsys, "lower", order, "--problem", str(problem))
    assert code == 0
    assert Schedule.parse(out).lowered
    assert "note: under buffered it is violated: SV403 rank 0, position 3" in err


def test_what_hangs_is_lowered_again_by_the_command_that_verify_names(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    hangs, cured = tmp_path / "it hangs.txt", tmp_path / "cured.txt"
    hangs.write_text(
        "0UNSHARD 0F0 0RECV_B0 0SEND_F0 0B0 0RESHARD 0REDUCE_GRAD\n1RECV_F0 1F0 1B0 1SEND_B0 1REDUCE_GRAD\n"
    )
    code, out, _ = run(capsys, "verify", str(hangs))
    assert code == 1
    line = next(line for line in out.splitlines() if line.startswith("  cure: "))
    words = shlex.split(line.removeprefix("  cure: ").partition(" keeps")[0])
    assert words == ["schedverify", "lower", str(hangs), "--again"]
    assert run(capsys, *words[1:], "-o", str(cured))[0] == 0
    assert cured.read_text() == (
        "0UNSHARD 0F0 0SEND_F0 0RECV_B0 0B0 0RESHARD 0REDUCE_GRAD\n1RECV_F0 1F0 1B0 1REDUCE_GRAD 1SEND_B0\n"
    )
    assert run(capsys, "verify", str(cured), "--discipline", "block")[0] == 0
    code, out, _ = run(capsys, *words[1:], "--unshard", "--reduce-grad")
    assert (code, out.splitlines()[1]) == (0, "1RECV_F0 1UNSHARD 1F0 1B0 1REDUCE_GRAD 1RESHARD 1SEND_B0")


def test_the_json_of_verify_names_the_cure_with_the_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    hangs, problem = tmp_path / "hangs.txt", tmp_path / "p.toml"
    hangs.write_text("0F0 0RECV_B0 0SEND_F0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0\n")
    problem.write_text("ranks = 2\nmicrobatches = 1\n[costs]\nforward = 1\nbackward = 2\n")
    code, out, _ = run(capsys, "verify", str(hangs), "--problem", str(problem), "--format", "json")
    (found,) = (each for each in json.loads(out)["properties"] if each["code"] == "SV304")
    assert (code, found["remedy"].partition(" keeps")[0]) == (
        1, f"schedverify lower {hangs} --problem {problem} --again",
    )  # fmt: skip
