"""Answers are not lost: outputs are looked at before the work, written after it was printed, and replace no input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import schedverify as sv
from schedverify import formats
from schedverify.cli import main
from schedverify.cli.delivery import deliver
from schedverify.core.errors import Fault, InputError, ScheduleError
from support.run_traces import a_plan, as_predicted

PROBLEM = "ranks = 2\nmicrobatches = 2\n[costs]\nforward = 1\nbackward = 2\n"
MODEL = "\n".join(f'[[layer]]\nname = "{name}"\nforward = 1\nbackward = 2\noutput = 10' for name in "abcd")
SCHEDULE = "0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1\n"
CLUSTER = 'nodes = 1\ndevices = 8\nbatch = 64\n[device]\nlike = "h100-80gb"\n'


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    texts = {"p.toml": PROBLEM, "m.toml": MODEL, "s.txt": SCHEDULE, "c.toml": CLUSTER, "m.py": "def build(): ...\n"}
    for name, text in texts.items():
        Path(name).write_text(text, encoding="utf-8")
    plan = a_plan()
    sv.save(plan, "plan.json")
    formats.save_run(as_predicted(plan, 2), "run.json")
    return tmp_path


def contents() -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path().iterdir() if path.is_file()}


def called(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = main(arguments)
    return code, *capsys.readouterr()


WRITING = {
    "optimize": ("optimize p.toml -o", ".toml"),
    "generate": ("generate 1f1b --problem p.toml -o", ".json"),
    "lower": ("lower s.txt -p p.toml -o", ".json"),
    "draw": ("draw s.txt -p p.toml -o", ".png"),
    "convert": ("convert s.txt", ".xyz"),
    "partition": ("partition m.toml --ranks 2 -o", ".csv"),
    "partition --plan": ("partition m.toml --ranks 2 --joint --plan", ".toml"),
    "partition --cluster": ("partition llama-3-8b --cluster c.toml -o", ".txt"),
    "profile": ("profile m:build -o", ".csv"),
    "conform": ("conform plan.json run.json -o", ".csv"),
    "conform --draw": ("conform plan.json run.json --draw", ".png"),
    "new": ("new -o", ".txt"),
}
TRACES = {
    "run --trace": "run plan.json --model m:build --trace",
    "run --boundaries": "run plan.json --model m:build --boundaries",
}


@pytest.mark.parametrize("command", WRITING)
def test_a_form_that_does_not_fit_is_told_before_the_work(
    desk: Path, command: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words, suffix = WRITING[command]
    before = contents()
    code, out, err = called(capsys, *words.split(), f"wrong{suffix}")
    assert (code, out) == (2, "")
    assert f"wrong{suffix}: " in err
    assert contents() == before


@pytest.mark.parametrize("words", [*(words for words, _ in WRITING.values()), *TRACES.values()])
def test_a_place_that_takes_no_file_is_told_before_the_work(
    desk: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    suffix = ".svg" if "draw" in words else ".txt" if words.startswith(("generate", "lower", "convert")) else ".json"
    before = contents()
    for target in (f"absent/x{suffix}", f"s.txt/x{suffix}"):
        code, out, err = called(capsys, *words.split(), target)
        assert (code, out) == (2, "")
        assert f"{target}: cannot be written: there is no folder" in err
    assert contents() == before


REPLACING = [
    "optimize p.json -o p.json",
    "optimize p.json --hint s.txt -o s.txt",
    "optimize p.json -o soft.json",
    "optimize p.json -o hard.json",
    "generate gpipe -p p.json -o hard",
    "partition m.toml --ranks 2 -o m.toml",
    "partition m.json --ranks 2 --joint --plan m.json",
    "partition llama-3-8b --cluster c.toml -o c.toml",
    "convert s.txt s.txt",
    "convert plan.json plan.json -p p.toml",
    "convert s.txt p.json -p p.json",
    "lower s.txt -p p.toml -o s.txt",
    "draw s.txt -p p.toml -o s.txt",
    "draw s.txt -p p.toml -o soft.txt",
    "conform plan.json run.json -o plan.json",
    "conform plan.json run.json -o run.json",
    "run plan.json --model m:build --trace plan.json",
    "run plan.json --model m:build --boundaries ./plan.json",
]


@pytest.mark.parametrize("command", REPLACING)
def test_no_input_is_replaced_by_its_output(desk: Path, command: str, capsys: pytest.CaptureFixture[str]) -> None:
    sv.save(sv.load("p.toml"), "p.json")
    Path("m.json").write_text(json.dumps({"layer": [{"name": n, "forward": 1, "backward": 2} for n in "abcd"]}))
    Path("soft.json").symlink_to("p.json")
    Path("soft.txt").symlink_to("s.txt")
    os.link("p.json", "hard.json")
    os.link("p.json", "hard")
    before = contents()
    code, out, err = called(capsys, *command.split())
    assert (code, out) == (2, "")
    assert "the file is read by this command" in err
    assert contents() == before


def test_two_outputs_are_not_one_file(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for words in (
        "partition m.toml --ranks 2 --joint -o both.json --plan both.json",
        "run plan.json --model m:build --trace both --boundaries ./both",
    ):
        code, _, err = called(capsys, *words.split())
        assert (code, "writes the same file" in err) == (2, True)
    for words in ("optimize p.toml -o - --format json", "partition m.toml --ranks 2 --joint -o - --plan -"):
        code, out, err = called(capsys, *words.split())
        assert (code, out, "has standard output" in err) == (2, "", True)


def test_new_asks_before_it_replaces(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code, _, err = called(capsys, "new", "-o", "p.toml")
    assert (code, "p.toml: the file is there already (--force replaces it)" in err) == (2, True)
    assert Path("p.toml").read_text(encoding="utf-8") == PROBLEM
    assert called(capsys, "new", "-o", "p.toml", "--force")[0] == 0
    assert Path("p.toml").read_text(encoding="utf-8") == formats.new()
    assert called(capsys, "new", "-o", "other.toml")[0] == 0


FULL = "/dev/full"  # takes any name's place, and no byte
SEARCHES = ["optimize p.toml -o", "partition m.toml --ranks 2 -o", "partition m.toml --ranks 2 --joint --plan",
            "lower s.txt -p p.toml -o"]  # fmt: skip


@pytest.mark.skipif(not Path(FULL).exists(), reason="there is no such device")
@pytest.mark.parametrize("words", SEARCHES)
def test_what_cannot_be_written_in_the_end_is_printed(
    desk: Path, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert called(capsys, *words.split(), "right.json" if "lower" not in words else "right.txt")[0] == 0
    code, out, err = called(capsys, *words.split(), FULL)
    assert code == 2
    assert "/dev/full: cannot be written: No space left on device" in err
    assert "what it should hold stands on standard output" in err
    if words == "partition m.toml --ranks 2 -o":  # a file without suffix holds a problem as TOML
        sv.save(sv.load("right.json"), "right.toml")
    right = next(Path(name) for name in ("right.toml", "right.json", "right.txt") if Path(name).exists())
    assert out.endswith(right.read_text(encoding="utf-8"))


@pytest.mark.skipif(not Path(FULL).exists(), reason="there is no such device")
@pytest.mark.parametrize("words", SEARCHES[:3])
def test_json_stays_one_object(desk: Path, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = called(capsys, *words.split(), FULL, "--format", "json")
    assert code == 2
    assert json.loads(out)


def test_an_end_that_is_asked_for_is_no_end_of_ours(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a model's own code asks for, which runs below a command, is what the process does."""

    def leave(*_: object, **__: object) -> None:
        raise SystemExit(7)

    monkeypatch.setattr("schedverify.formats.load_problem", leave)
    with pytest.raises(SystemExit) as ended:
        main(["optimize", "p.toml"])
    assert ended.value.code == 7


# The order of things, by itself


def test_a_reader_that_hangs_up_keeps_nothing_from_being_written(desk: Path) -> None:
    command = f"{sys.executable} -m schedverify optimize p.toml -o out.json --workers 1 | head -c 1"
    ended = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert main(["verify", "out.json"]) == 0


@pytest.mark.skipif(not Path(FULL).exists(), reason="there is no such device")
@pytest.mark.parametrize(
    "words", ["--version", "--help", "verify s.txt", "simulate s.txt", "optimize p.toml -o o.json"]
)
def test_a_full_standard_output_is_told(desk: Path, words: str) -> None:
    command = [sys.executable, "-m", "schedverify", *words.split()]
    with Path(FULL).open("w", encoding="utf-8") as full:
        ended = subprocess.run(command, stdout=full, stderr=subprocess.PIPE, text=True, check=False)
    assert ended.returncode == 2
    assert ended.stderr.endswith("schedverify: standard output: No space left on device\n")
    assert "Traceback" not in ended.stderr
    assert Path("o.json").exists() == ("o.json" in words)


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
@pytest.mark.parametrize("words", ["verify s.txt", "optimize p.toml -o o.json --workers 1"])
def test_closed_streams_keep_nothing_from_being_done(desk: Path, closed: str, words: str) -> None:
    command = f"{sys.executable} -m schedverify {words} {closed}"
    ended = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
    assert ended.returncode == 0
    assert "Traceback" not in ended.stderr
    assert Path("o.json").exists() == ("o.json" in words)


class TestDeliver:
    def test_everything_is_tried_and_the_last_error_told(self, capsys: pytest.CaptureFixture[str]) -> None:
        done: list[Any] = []

        def show() -> None:
            done.append("shown")
            raise OSError(28, "No space left on device")

        def refuse(path: str) -> None:
            done.append(path)
            raise ScheduleError("none")

        with pytest.raises(ScheduleError):
            deliver(show, ("a", done.append), (None, done.append), ("b", refuse), ("c", done.append))
        assert done == ["shown", "a", "b", "c"]
        assert capsys.readouterr().err == "[Errno 28] No space left on device\n"

    def test_an_interruption_of_the_printing_loses_no_file(self) -> None:
        done: list[str] = []

        def show() -> None:
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            deliver(show, ("a", done.append), ("b", done.append))
        assert done == ["a", "b"]

    def test_what_is_rescued_is_written_to_standard_output(self) -> None:
        asked: list[str] = []

        def save(path: str) -> None:
            asked.append(path)
            if path != "-":
                raise InputError(Fault("", "cannot be written"), path)

        with pytest.raises(InputError, match=r"a: cannot be written\na: what it should hold stands on standard output"):
            deliver(lambda: None, ("a", save))
        with pytest.raises(InputError, match=r"^a: cannot be written$"):
            deliver(lambda: None, ("a", save), rescue=False)
        assert asked == ["a", "-", "a"]
