"""Reading and writing: what a file is, whole or not at all, and every way in which it cannot be read."""

from __future__ import annotations

import contextlib
import io
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Status
from schedverify.core.schedule import Schedule
from schedverify.formats import load, load_judged, load_problem, load_schedule, save
from schedverify.formats.loading import MAX_BYTES
from schedverify.formats.text_files import read_text, write_text
from schedverify.generators import generate
from schedverify.planner.plans import plan_of
from schedverify.simulator.engine import simulate

PROBLEM = Problem.chain(ranks=2, microbatches=2, name="two")
SCHEDULE = generate("1f1b", PROBLEM)
PLAN = plan_of(SCHEDULE, PROBLEM)


@pytest.fixture
def stdin(monkeypatch: pytest.MonkeyPatch) -> Any:
    def put(content: str | bytes) -> None:
        raw = content if isinstance(content, bytes) else content.encode()
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(raw)))

    return put


def told(call: Any, *arguments: Any) -> Fault:
    with pytest.raises(InputError) as caught:
        call(*arguments)
    assert caught.value.source
    return caught.value.faults[0]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "empty; expected a thing"),
        (b"0F0\0", "a binary file; expected a thing"),
        (b"0" * 100_000 + b"\0", "a binary file; expected a thing"),
        (b"\xff\xfe0\x00F\x00", "a binary file; expected a thing"),
        (b"0F0 \xe9", "no UTF-8; expected a thing"),
        (b"0" * 200_001, "200001 bytes or more, where a thing has at most 200000"),
    ],
)
def test_what_cannot_be_read_is_told(tmp_path: Path, stdin: Any, content: bytes, words: str) -> None:
    path = tmp_path / "f"
    path.write_bytes(content)
    stdin(content)
    for source in (path, str(path), "-"):
        fault = told(read_text, source, "a thing", 200_000)
        assert fault.message == words
        assert fault.hint


def test_no_file_at_all(tmp_path: Path) -> None:
    assert told(read_text, tmp_path / "absent", "a thing", 9).message == "no such file; expected a thing"
    assert told(read_text, tmp_path, "a thing", 9).message == "a folder; expected a thing"
    assert told(read_text, "a\0b", "a thing", 9).message.startswith("cannot be read")
    (tmp_path / "f").write_text("x", encoding="utf-8")
    assert told(read_text, tmp_path / "f" / "g", "a thing", 9).message.startswith("cannot be read")
    with pytest.raises(InputError, match=r"^a\\x1bb: no such file"):
        read_text("a\x1bb", "a thing", 9)


def test_a_byte_order_mark_is_skipped(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"\xef\xbb\xbf0F0\n")
    assert load(tmp_path / "f") == Schedule.parse("0F0")


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="there are no pipes in this file system")
def test_a_pipe_is_read_no_further_than_the_limit(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)

    written: list[int] = []

    def pour() -> None:
        with contextlib.suppress(BrokenPipeError), path.open("wb", buffering=0) as file:
            for _ in range(1000):
                written.append(file.write(b"0" * 100_000))

    writer = threading.Thread(target=pour)
    writer.start()
    assert "bytes or more" in told(read_text, path, "a thing", 1_000_000).message
    writer.join(timeout=30)
    assert not writer.is_alive()
    assert sum(written) < 2_000_000


def test_the_limits_are_by_form(tmp_path: Path) -> None:
    for suffix, form in ((".toml", "toml"), (".json", "json"), (".csv", "csv"), (".txt", "text")):
        path = tmp_path / f"f{suffix}"
        with path.open("wb") as file:
            file.truncate(MAX_BYTES[form] + 1)
        assert f"at most {MAX_BYTES[form]}" in told(load, path).message


def test_a_form_that_only_the_content_shows_has_its_limit_too(stdin: Any) -> None:
    stdin("ranks = 2\n" + "#" * MAX_BYTES["toml"])
    assert f"at most {MAX_BYTES['toml']}" in told(load, "-").message


# What a file is


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        ("0F0 0B0\n", Schedule),
        ("-\n0F0\n", Schedule),
        ("# a, b\n(0F0;1B0)OVERLAP_F_B\n", Schedule),
        ("[0SEND_F0;1RECV_F0] 0F0\n", Schedule),
        ("0F0,0B0\n\n", Schedule),
        ("\n0F0,0B0\n", Schedule),
        ("# a problem\n\nranks = 2\nmicrobatches = 2\n[costs]\nforward = 1\nbackward = 2\n", Problem),
        ("[costs]\nforward = 1\nbackward = 2\n", InputError),
        ('  {"ranks": 2, "microbatches": 2, "costs": {"forward": 1, "backward": 2}}', Problem),
        ('{"schedule": []}', InputError),
    ],
)
def test_standard_input_shows_its_form_by_its_content(stdin: Any, content: str, kind: type) -> None:
    stdin(content)
    if kind is InputError:
        told(load, "-")
    else:
        assert isinstance(load("-"), kind)
    if content.startswith("\n"):
        stdin(content)
        assert load_schedule("-").ranks == 2


def test_json_is_a_plan_or_a_problem(tmp_path: Path) -> None:
    save(PLAN, tmp_path / "plan.json")
    save(PROBLEM, tmp_path / "problem.json")
    assert isinstance(load(tmp_path / "plan.json"), Plan)
    assert load(tmp_path / "problem.json") == PROBLEM
    assert load_problem(tmp_path / "plan.json") == load_problem(tmp_path / "problem.json") == PROBLEM
    assert load_schedule(tmp_path / "plan.json") == SCHEDULE
    assert isinstance(load_judged(tmp_path / "plan.json"), Plan)


def test_a_file_of_another_kind_is_refused(tmp_path: Path) -> None:
    save(SCHEDULE, tmp_path / "s.txt")
    save(PROBLEM, tmp_path / "p.toml")
    assert "a schedule, where a problem is expected" in told(load_problem, tmp_path / "s.txt").message
    for call in (load_schedule, load_judged):
        assert "a problem, where a schedule or a plan is expected" in told(call, tmp_path / "p.toml").message


def test_every_value_is_saved_in_its_forms_alone(tmp_path: Path) -> None:
    timeline = simulate(SCHEDULE, PROBLEM)
    fits = {
        "problem": (PROBLEM, {".toml", ".json", ""}), "schedule": (SCHEDULE, {".txt", ".csv", ""}),
        "plan": (PLAN, {".json", ".txt", ".csv", ""}), "timeline": (timeline, {".json", ".txt", ".csv", ""}),
    }  # fmt: skip
    for name, (value, suffixes) in fits.items():
        for suffix in (".toml", ".json", ".txt", ".csv", ""):
            path = tmp_path / f"{name}{suffix}"
            if suffix in suffixes:
                save(value, path)
                assert path.read_bytes().endswith(b"\n")
            else:
                assert f"a {name} has no form" in told(save, value, path).message
                assert not path.exists()
    assert load(tmp_path / "plan.txt") == load(tmp_path / "plan.csv") == SCHEDULE
    assert "has no form 'yaml'" in told(lambda: save(PLAN, tmp_path / "x", form="yaml")).message
    with pytest.raises(TypeError, match="save needs a Schedule, found an int"):
        save(3, tmp_path / "x.txt")


def test_dash_is_standard_output(capsysbinary: pytest.CaptureFixture[bytes]) -> None:
    save(SCHEDULE, "-")
    save(Problem.chain(ranks=1, microbatches=1, name="é"), "-")
    out = capsysbinary.readouterr().out
    assert out.startswith(b"0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1\nversion = 1\n")
    assert 'name = "é"\n'.encode() in out


def test_a_standard_output_without_bytes_takes_text(monkeypatch: pytest.MonkeyPatch) -> None:
    out = io.StringIO()
    monkeypatch.setattr(sys, "stdout", out)
    write_text("-", "é\n")
    assert out.getvalue() == "é\n"


# Written whole or not at all


def test_a_file_is_replaced_whole_and_keeps_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "f.txt"
    write_text(path, "one\n")
    path.chmod(0o640)
    write_text(path, "two\né\n")
    assert path.read_bytes() == "two\né\n".encode()
    assert path.stat().st_mode & 0o777 == 0o640
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.txt"]


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(tmp_path / "real")
    write_text(tmp_path / "link", "x")
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "real").read_text(encoding="utf-8") == "x"


def test_what_is_no_file_is_written_in_place() -> None:
    write_text("/dev/null", "x")
    assert not Path("/dev/null").is_file()


def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "f.txt"
    write_text(path, "old")

    def fail(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", fail)
    fault = told(write_text, path, "new")
    assert fault.message == "cannot be written: No space left on device"
    assert path.read_text(encoding="utf-8") == "old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["f.txt"]


@pytest.mark.parametrize("name", ["absent/f.txt", ".", "a\0b"])
def test_what_cannot_be_written_is_told(tmp_path: Path, name: str) -> None:
    fault = told(write_text, tmp_path / name, "x")
    assert fault.message.startswith("cannot be written: ")
    assert fault.hint


def test_a_plan_that_cannot_be_saved_leaves_no_file(tmp_path: Path) -> None:
    path = tmp_path / "p.json"
    bad = Plan(PROBLEM, Status.FEASIBLE, "makespan", SCHEDULE, certificate={"x": [1.5]})
    fault = told(lambda: save(bad, path))
    assert (fault.key, path.exists()) == ("certificate.x[0]", False)
