"""Bad input: a message with the place and a hint, exit code 2, no traceback, in bounded memory."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from schedverify.cli import main

COSTS = "[costs]\nforward = 1\nbackward = 2\n"
TWO = f"ranks = 2\nmicrobatches = 2\n{COSTS}"

PROBLEMS = {
    "wrong type": ('ranks = "two"\nmicrobatches = 2\n' + COSTS, "ranks"),
    "negative cost": (TWO.replace("forward = 1", "forward = -1"), "costs.forward"),
    "huge cost": (TWO.replace("forward = 1", f"forward = {2**61}"), "2^62"),
    "absent rank": ("placement = [0, 5]\n" + TWO, "placement[1]: rank 5 is absent"),
    "cyclic graph": ("edges = [[0, 1], [1, 0]]\n" + TWO, "cycle"),
    "no micro-batch": (TWO.replace("microbatches = 2", "microbatches = 0"), "microbatches"),
    "capacity too small": (TWO + "[memory]\nactivation = 3\ncapacity = 2\n", "memory.capacity"),
    "off the tick": (TWO.replace("forward = 1", "forward = 1.5"), "0.1 tick"),
    "nearest key": (TWO.replace("forward = 1", "foward = 1"), "forward"),
    "another table": ("capacity = 3\n" + TWO, "[memory]"),
    "NaN": (TWO.replace("forward = 1", "forward = nan"), "NaN"),
    "duplicate key": ("ranks = 2\n" + TWO, "stands twice"),
    "nested": ("a = " + "[" * 10_000 + "]" * 10_000 + "\n", "nested"),
    "long integer": (TWO.replace("forward = 1", "forward = " + "1" * 5_000), "5000 digits"),
    "empty": ("", "empty"),
    "newer": ("version = 2\n" + TWO, "version"),
}


MILLION = 1_000_000
JSON = {
    "nested": ("[" * 10_000, "line 1, column 33: nested deeper than 32 levels"),
    "long integer": (
        '{"ranks": ' + "1" * 5_000 + "}",
        "ranks: expected a whole number from 1 to 65535, found a number",
    ),
    "duplicate key": ('{"ranks": 2, "ranks": 2}', "ranks: the key stands twice"),
    "NaN": ('{"ranks": 2, "costs": {"forward": NaN}}', "costs.forward: expected a number, found NaN"),
    "null": ('{"ranks": null}', "ranks: expected a value, found null"),
    "no JSON": ('{"ranks": 2,', "line 1, column 13: no JSON"),
}
SCHEDULES = {
    "junk.txt": ("x " * MILLION, "line 1, step 20: 'x' is no operation"),
    "junk.csv": ("0F0,x," * MILLION, "row 1, column 40: 'x' is no operation"),
    "rows.csv": ("\n" * MILLION, "1000000 line ends, where a schedule has at most 65535 ranks"),
    "rows.txt": ("0F0\n0F0\n0F0\n", "the schedule has 3 rows, the problem 2 ranks"),
    "kind.txt": ("1F0junk", "line 1, step 1: '1F0junk' is no operation"),
    "kind.csv": ("0F0,[0SEND_F0;1RECV_F0]", "row 1, column 2: '[0SEND_F0;1RECV_F0]' has no place here"),
    "stage.txt": ("65535F0", "line 1, step 1: stage 65535 is out of range"),
    "steer.txt": ("\x1b[2Jx", "line 1, step 1: '\\x1b[2Jx' is no operation"),
    "plan.json": ('{"version": 3, "digest": ""}', "version: expected 2, found 3 (a newer schedverify wrote it"),
}


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = main(arguments)
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert "Traceback" not in captured.err
    assert len(captured.err) < 20_000
    return captured.err


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_wrong_problem_is_told_with_file_and_place(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = PROBLEMS[name]
    path = tmp_path / "wrong.toml"
    path.write_text(text, encoding="utf-8")
    told = refused(capsys, "generate", "1f1b", "--problem", str(path))
    assert "wrong.toml" in told
    assert message in told


@pytest.mark.parametrize("name", JSON)
def test_a_wrong_problem_in_json_is_told_with_file_and_place(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text, message = JSON[name]
    path = tmp_path / "wrong.json"
    path.write_text(text, encoding="utf-8")
    told = refused(capsys, "optimize", str(path))
    assert f"wrong.json: {message}" in told
    assert "(" in told


@pytest.mark.parametrize("name", SCHEDULES)
def test_a_wrong_schedule_is_told_with_its_place(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text, message = SCHEDULES[name]
    (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "two.toml").write_text(TWO, encoding="utf-8")
    told = refused(capsys, "verify", str(tmp_path / name), "--problem", str(tmp_path / "two.toml"))
    assert message in told
    assert "(" in told


def test_a_plan_of_another_problem_or_changed_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    two, other, plan = (str(tmp_path / name) for name in ("two.toml", "other.toml", "plan.json"))
    Path(two).write_text(TWO, encoding="utf-8")
    Path(other).write_text(TWO.replace("backward = 2", "backward = 3"), encoding="utf-8")
    (tmp_path / "s.txt").write_text("0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1\n", encoding="utf-8")
    assert main(["convert", str(tmp_path / "s.txt"), plan, "--problem", two]) == 0
    assert main(["verify", plan]) in (0, 3)
    capsys.readouterr()
    assert "the plan is of another problem" in refused(capsys, "verify", plan, "--problem", other)
    Path(plan).write_text(
        Path(plan).read_text(encoding="utf-8").replace('"1B0","1F1"', '"1F1","1B0"'), encoding="utf-8"
    )
    assert "plan.json: digest: " in refused(capsys, "verify", plan)


def test_every_fault_of_a_file_is_told_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "wrong.toml"
    path.write_text("ranks = 0\nmicrobatches = -1\ntick = 3\n" + COSTS, encoding="utf-8")
    told = refused(capsys, "generate", "1f1b", "--problem", str(path))
    assert all(key in told for key in ("ranks", "microbatches", "tick"))


@pytest.mark.parametrize("content", [b"", b"\x00\x01\x02", b"\xff\xfe0F0", b"0F0 junk"])
@pytest.mark.parametrize("suffix", [".txt", ".csv", ".json"])
def test_a_wrong_schedule_file_is_told(
    content: bytes, suffix: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / f"wrong{suffix}"
    path.write_bytes(content)
    assert path.name in refused(capsys, "verify", str(path))


def test_a_missing_file_and_a_folder_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "absent.txt" in refused(capsys, "verify", str(tmp_path / "absent.txt"))
    assert str(tmp_path) in refused(capsys, "verify", str(tmp_path))


@pytest.mark.parametrize("suffix", [".toml", ".json", ".csv", ".txt"])
def test_200_megabytes_of_commas_end_in_bounded_memory(suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"commas{suffix}"
    with path.open("wb") as file:
        for _ in range(200):
            file.write(b"," * 1_000_000)
    command = ["verify", str(path)] if suffix != ".toml" else ["generate", "1f1b", "--problem", str(path)]
    limit = 1_500_000_000
    ended = subprocess.run(
        [sys.executable, "-m", "schedverify", *command],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    path.unlink()
    assert (ended.returncode, "Traceback" in ended.stderr) == (2, False)
    assert path.name in ended.stderr
