"""Nothing from a file, or a file's name, reaches a terminal, a picture or a runner of GitHub as a command to it."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree as ET
from pathlib import Path
from typing import Any

import pytest

from schedverify import Problem, generate, plan_of, save
from schedverify.cli import main
from schedverify.core.errors import printable
from schedverify.core.trace import RunTrace, StepSpan
from schedverify.formats import save_run
from schedverify.formats.plan_files import canonical, digest, plan_data

ROOT = Path(__file__).parents[2]
EVIL = {
    "escape": "e\x1b[31m\x1b]0;x\x07",
    "a line": "n\n::error::pwned",
    "a return": "r\r::error::pwned",
    "a command": "::error::pwned",
    "a command behind a blank": "x ::error::pwned",
    "a command anywhere": "x##[error]pwned",
    "right to left": "b\u202ex\u2066",
    "C1": "c\x9b31m\x85",
    "line separator": "l\u2028::error::pwned",
    "nothing": "\u200b\ufeff\xad",
    "markup": "</text><script>alert(1)</script>&\"'",
    "rich": "[bold red]x[/bold red][link=file:///etc]",
    "tag": "\U000e0041\ufff9",
    "long": "y" * 137 + "::error::pwned",
}
PROBLEM = "ranks = 2\nmicrobatches = 2\n\n[costs]\nforward = 1\nbackward = 2\n"
STUCK = "0F0 0B0 0F1 0B1\n1F0 1F1 1B0 1B1\n"
RIGHT = "0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1\n"
NESTED = PROBLEM.replace("ranks", "[problem]\nranks").replace("[costs]", "[problem.costs]")
MODEL = """version = 1
name = "m"
tick = "us"
[[layer]]
name = "a"
forward = 1
backward = 2
[[layer]]
name = "b"
forward = 1
backward = 2
"""


def check_harmless(text: str, *, annotated: bool = False) -> None:
    """Check that nothing in a text steers a terminal or a runner of GitHub; annotations of ours may stand in it."""
    assert not [
        letter for letter in text if unicodedata.category(letter) in ("Cc", "Cf", "Cs", "Zl", "Zp") if letter != "\n"
    ]
    assert "##[" not in text
    for line in text.splitlines():
        ours = annotated and line.startswith(("::error file=", "::warning file="))
        assert ours or not line.lstrip().startswith("::"), line


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize("case", EVIL)
def test_names_of_files(desk: Path, capsys: pytest.CaptureFixture[str], case: str) -> None:
    evil = EVIL[case].replace("/", "\u2215")
    files = {f"{evil}.txt": STUCK, f"{evil}.csv": STUCK.replace(" ", ","), f"{evil}.problem.toml": PROBLEM,
             f"{evil}.schedule.toml": f'schedule = """\n{STUCK}"""\n{NESTED}', f"{evil}.wrong.toml": "rank = 3",
             f"{evil}.model.toml": MODEL, f"{evil}.json": "{}", "p.toml": PROBLEM, "right.txt": RIGHT}  # fmt: skip
    for name, text in files.items():
        (desk / name).write_text(text)
    order, wrong = f"{evil}.txt", f"{evil}.wrong.toml"
    for words in (
        ["verify", "--", order],
        ["verify", "-p", "p.toml", "--", order],
        ["verify", "--format", "github", "--", order],
        ["verify", "--format", "json", "--", order],
        ["verify", "--", wrong],
        ["verify", "--", f"absent{evil}"],
        ["verify", f"--{evil}"],
        ["verify", "--discipline", evil, "--", order],
        ["verify", "--select", evil, "--", order],
        ["lint", "--", f"{evil}.schedule.toml", f"{evil}.csv", wrong, f"absent{evil}"],
        ["lint", "--format", "github", "--", f"{evil}.schedule.toml", f"{evil}.csv", wrong, f"absent{evil}"],
        ["simulate", "-p", "p.toml", "--", order],
        ["lower", "-p", "p.toml", "--", order],
        ["draw", "-p", "p.toml", "--", order],
        ["draw", "-p", "p.toml", "-o", f"out{evil}.nope", "--", "right.txt"],
        ["draw", "-o", f"no/{evil}.svg", "--", "right.txt"],
        ["convert", "--", "right.txt", f"out{evil}.nope"],
        ["convert", "--", order, f"no/{evil}.csv"],
        ["new", "-o", f"no/{evil}"],
        ["partition", "--ranks", "2", "--", f"{evil}.model.toml"],
        ["partition", "--ranks", "2", "--", wrong],
        ["conform", "--", f"{evil}.json", f"{evil}.json"],
        ["optimize", "--", wrong],
        ["explain", "--", evil],
        ["generate", "--ranks", "2", "--microbatches", "2", "--", evil],
        ["run", "--model", evil, "--", f"{evil}.json"],
        [evil],
    ):
        assert main(words) in (0, 1, 2, 3)
        told = capsys.readouterr()
        check_harmless(told.out, annotated="github" in words)
        check_harmless(told.err)


LINTS = ["lint", "f.schedule.toml"], ["lint", "f.schedule.toml", "--format", "github"]
TEXTS: dict[str, tuple[str, list[list[str]]]] = {
    "the name of a problem": ("f.toml", [["verify", "right.txt", "-p", "f.toml"], ["draw", "right.txt", "-p", "f.toml"],
        ["simulate", "right.txt", "-p", "f.toml"], ["draw", "right.txt", "-p", "f.toml", "-o", "o.svg"],
        ["draw", "right.txt", "-p", "f.toml", "-o", "o.html"]]),
    "the tick of a problem": ("f.toml", [["simulate", "right.txt", "-p", "f.toml"],
        ["draw", "right.txt", "-p", "f.toml", "-o", "o.svg"]]),
    "a key of a problem": ("f.toml", [["verify", "right.txt", "-p", "f.toml"]]),
    "a dtype": ("f.toml", [["verify", "right.txt", "-p", "f.toml"]]),
    "a placement": ("f.toml", [["verify", "right.txt", "-p", "f.toml"]]),
    "the name of a layer": ("f.toml", [["partition", "f.toml", "--ranks", "2"],
        ["partition", "f.toml", "--ranks", "2", "-o", "o.toml"],
        ["partition", "f.toml", "--ranks", "3"]]),
    "the name of a model": ("f.toml", [["partition", "f.toml", "--ranks", "2"]]),
    "a key of a model": ("f.toml", [["partition", "f.toml", "--ranks", "2"]]),
    "an operation": ("f.txt", [["verify", "f.txt"], ["verify", "f.txt", "--format", "github"]]),
    "an operation of a CSV": ("f.csv", [["verify", "f.csv"], ["convert", "f.csv", "o.csv"]]),
    "a comment": ("f.txt", [["verify", "f.txt"], ["draw", "f.txt"], ["lower", "f.txt", "-p", "p.toml"]]),
    "an option of a case": ("f.schedule.toml", [*LINTS]),
    "the file of a case": ("f.schedule.toml", [*LINTS]),
    "about a case": ("f.schedule.toml", [["lint", "f.schedule.toml"]]),
    "the reason of a plan": ("f.json", [["verify", "f.json"], ["draw", "f.json"], ["conform", "f.json", "f.json"]]),
    "the partition of a plan": ("f.json", [["verify", "f.json"], ["draw", "f.json"]]),
    "the certificate of a plan": ("f.json", [["verify", "f.json"], ["draw", "f.json"]]),
    "a verdict of a plan": ("f.json", [["verify", "f.json"]]),
    "a claim of a plan": ("f.json", [["verify", "f.json"]]),
    "a key of a plan": ("f.json", [["verify", "f.json"]]),
    "a step of a trace": ("f.json", [["conform", "plan.json", "f.json"]]),
    "the name of a step of a trace": ("f.json", [["conform", "plan.json", "f.json"]]),
    "the plan of a trace": ("f.json", [["conform", "plan.json", "f.json"]]),
}  # fmt: skip


def text_of(case: str, evil: str) -> str:
    quoted = json.dumps(evil)
    if case in ("the name of a problem", "the tick of a problem", "a key of a problem"):
        key = {"n": "name", "t": "tick", "k": quoted}[case.removeprefix("the ").removeprefix("a ")[0]]
        return f"{key} = {quoted}\n{PROBLEM}"
    if case == "a dtype":
        return f"{PROBLEM}[[boundary]]\nfrom = 0\nto = 1\nshape = [2]\ndtype = {quoted}\n"
    if case == "a placement":
        return f"placement = {quoted}\n{PROBLEM}"
    if case.endswith("of a model") or case == "the name of a layer":
        old, new = {"l": ('name = "a"', f"name = {quoted}"), "m": ('name = "m"', f"name = {quoted}")}.get(
            case[12:13], ("", "")
        )
        return MODEL.replace(old, new) if old else f"{quoted} = 3\n{MODEL}"
    if case.startswith("an operation"):
        word = (evil.split() or [evil])[0]
        return f"0F0{',' if 'CSV' in case else ' '}{word}\n1F0\n"
    if case == "a comment":
        return f"0F0 0B0 # {evil.splitlines()[0]}\n1F0 1B0\n"
    if case.endswith("a case"):
        key = {"an": "discipline", "th": "file", "ab": "about"}[case[:2]]
        return f"{key} = {quoted}\n" + ("" if key == "file" else f'schedule = """{RIGHT}"""\n') + NESTED
    if case.endswith("of a trace"):
        return trace_text(case, evil)
    return plan_text(case, evil)


def trace_text(case: str, evil: str) -> str:
    save_run(RunTrace("0" * 64, 2, ((StepSpan(0, 0, "0F0", 1, 2), StepSpan(1, 0, "1F0", 2, 3)),), (0, 0)), "trace.json")
    data = json.loads(Path("trace.json").read_text(encoding="utf-8"))
    event = next(each for each in data["traceEvents"] if each["ph"] == "X")
    if case == "the plan of a trace":
        data["otherData"]["plan"] = evil
    elif case == "the name of a step of a trace":
        event["name"] = evil
    else:
        event["args"] |= {"step": evil, evil: evil}
    return json.dumps(data)


def plan_text(case: str, evil: str) -> str:
    problem = Problem.chain(ranks=2, microbatches=2)
    data: dict[str, Any] = json.loads(canonical(plan_data(plan_of(generate("1f1b", problem), problem))))
    if "reason" in case:
        data |= {"reason": evil}
    elif "partition" in case:
        data |= {"partition": [[evil], ["b"]]}
    elif "certificate" in case:
        data |= {"certificate": {"kind": evil, evil: evil}, "bound": 1}
    elif "verdict" in case:
        data["verdicts"] = {evil: evil}
    elif "claim" in case:
        data["measures"] |= {evil: evil, "makespan": evil}
    else:
        data |= {evil: evil}
    data["digest"] = digest(data)
    return json.dumps(data)


@pytest.mark.parametrize("case", TEXTS)
@pytest.mark.parametrize("evil", ["escape", "a line", "a command", "a command anywhere", "right to left", "markup"])
def test_texts_in_files(desk: Path, capsys: pytest.CaptureFixture[str], case: str, evil: str) -> None:
    name, commands = TEXTS[case]
    problem = Problem.chain(ranks=2, microbatches=2)
    (desk / "right.txt").write_text(RIGHT)
    (desk / "p.toml").write_text(PROBLEM)
    save(plan_of(generate("1f1b", problem), problem), desk / "plan.json")
    (desk / name).write_text(text_of(case, EVIL[evil]))
    for words in commands:
        assert main(words) in (0, 1, 2, 3)
        told = capsys.readouterr()
        check_harmless(told.out, annotated="github" in words)
        check_harmless(told.err)
    for picture in (*desk.glob("o.svg"), *desk.glob("o.html")):
        text = picture.read_text(encoding="utf-8")
        check_harmless(text)
        assert "<script" not in text
        if picture.suffix == ".svg":
            ET.fromstring(text)


def on_terminal(words: list[str], folder: Path) -> str:
    """Return what a command prints on a terminal of 80 columns."""
    ours, theirs = pty.openpty()
    environment = os.environ | {"COLUMNS": "80", "TERM": "dumb", "NO_COLOR": "1", "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-m", "schedverify", *words]
    process = subprocess.Popen(
        line, stdout=theirs, stderr=theirs, stdin=subprocess.DEVNULL, cwd=folder, env=environment
    )
    os.close(theirs)
    content = b""
    try:
        while read := os.read(ours, 1 << 16):
            content += read
    except OSError:  # its end has closed
        pass
    finally:
        os.close(ours)
        process.kill()
        process.wait(10)
    return content.decode("utf-8")


@pytest.mark.parametrize("case", ["escape", "a line", "right to left", "long", "C1"])
def test_a_terminal_gets_nothing_to_obey(desk: Path, case: str) -> None:
    name = f"{EVIL[case]}.txt"
    (desk / name).write_text(STUCK)
    text = on_terminal(["verify", "--", name], desk).replace("\r\n", "\n")
    assert "SV201" in text
    check_harmless(text)


@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_a_name_that_is_no_utf_8_is_no_traceback(desk: Path, encoding: str) -> None:
    name = os.fsdecode(b"\xff\xfe \xe4") + "\xe4\u4f60.txt"
    (desk / name).write_text(STUCK)
    (desk / f"{name}.schedule.toml").write_text(f'schedule = """\n{STUCK}"""\n{NESTED}')
    environment = os.environ | {"PYTHONIOENCODING": encoding, "PYTHONPATH": str(ROOT)}
    for words in (
        ["verify", name],
        ["verify", name, "--format", "json"],
        ["verify", name, "--format", "github"],
        ["lint", f"{name}.schedule.toml", "absent\udcff"],
        ["draw", name],
        ["explain", "\udcff\u202e"],
        ["convert", name, "\udcff.csv"],
        ["\udcff"],
    ):
        line = [sys.executable, "-m", "schedverify", *words]
        done = subprocess.run(line, capture_output=True, timeout=60, check=False, env=environment)
        assert done.returncode in (0, 1, 2)
        for text in (done.stdout.decode(encoding), done.stderr.decode(encoding)):
            assert "Traceback" not in text
            check_harmless(text, annotated="github" in words)


def test_what_is_printable_stays_as_it_is() -> None:
    for text in ("plain", "c10::Error", "a::b", "ä 你好 é", "x: :y", "# [a]", "#[a]", "\\n"):
        assert printable(text) == text
    for text in EVIL.values():
        assert printable(printable(text)) == printable(text)
