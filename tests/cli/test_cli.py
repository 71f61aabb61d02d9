"""The command line: what it prints, its exit codes, its JSON, and how it ends when it is told to."""

from __future__ import annotations

import contextlib
import gc
import io
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

import schedverify as sv
from schedverify.cli import main

RIGHT = "0F0 0F1 0B0 0B1\n1F0 1B0 1F1 1B1\n"
STUCK = "0F0 0B0 0F1 0B1\n1F0 1F1 1B0 1B1\n"
PROBLEM = 'ranks = 2\nmicrobatches = 2\nname = "two"\n[costs]\nforward = 1\nbackward = 2\n'


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in (("right.txt", RIGHT), ("stuck.txt", STUCK), ("two.toml", PROBLEM)):
        Path(name).write_text(text, encoding="utf-8")
    return tmp_path


@pytest.fixture
def run(files: Path, capsys: pytest.CaptureFixture[str]) -> Any:
    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_verify_holds(run: Any) -> None:
    code, out, err = run("verify", "right.txt", "--problem", "two.toml")
    assert code == 0
    assert out.startswith("right.txt: holds\n")
    assert "SV201" in out
    assert "makespan" in out
    assert err == ""


def test_verify_shows_the_counterexample(run: Any) -> None:
    code, out, err = run("verify", "stuck.txt", "-p", "two.toml")
    assert code == 1
    assert "SV201 rank 0 waits at position 1 (0B0) for 1B0; rank 1 waits at position 1 (1F1) for 0F1" in out
    assert "explain SV201" in err


CROSSED = "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1\n1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1\n"


def test_verify_judges_communication_under_a_discipline(run: Any, files: Path) -> None:
    (files / "crossed.txt").write_text(CROSSED, encoding="utf-8")
    story = "rank 0 waits at position 3 (0SEND_F1) for 1RECV_F1; rank 1 waits at position 3 (1SEND_B0) for 0RECV_B0"
    code, out, _ = run("verify", "crossed.txt", "-p", "two.toml")
    assert code == 1
    assert f"SV304 {story}" in out
    assert "judged under pair; strictest discipline free of deadlock: edge" in out
    code, out, _ = run("verify", "crossed.txt", "-p", "two.toml", "--discipline", "edge", "--format", "json")
    assert code == 0
    assert json.loads(out)["communication"] == {"discipline": "edge", "eager_bytes": 0, "strictest": "edge"}
    code, out, _ = run("verify", "crossed.txt", "-p", "two.toml", "--discipline", "block", "--eager-bytes", "1")
    assert code == 0
    assert "judged under block, messages of at most 1 bytes eager; strictest discipline free of deadlock: block" in out
    code, out, _ = run("verify", "crossed.txt", "-p", "two.toml", "--format", "github")
    assert code == 1
    assert out == f"::error file=crossed.txt,line=1,title=SV304::{story}\n"


@pytest.mark.parametrize("option", [("--discipline", "pairs"), ("--eager-bytes", "-1"), ("--eager-bytes", "x")])
def test_a_wrong_discipline_or_size_is_wrong_usage(run: Any, option: tuple[str, str]) -> None:
    code, out, err = run("verify", "right.txt", *option)
    assert (code, out) == (2, "")
    assert option[0] in err


def test_verify_json_is_the_interface_s(run: Any) -> None:
    code, out, _ = run("verify", "stuck.txt", "-p", "two.toml", "--format", "json")
    data = json.loads(out)
    assert (code, data["verdict"], data["ok"], data["measures"]) == (1, "violated", False, None)
    found = next(p for p in data["properties"] if p["code"] == "SV201")
    assert (found["verdict"], found["scope"]) == ("violated", "every duration")
    assert found["violations"][0] == {
        "code": "SV201",
        "message": "rank 0 waits at position 1 (0B0) for 1B0; rank 1 waits at position 1 (1F1) for 0F1",
        "rank": 0,
        "position": 1,
        "operations": ["0B0", "1F1"],
        "counterexample": ["rank 0 waits at position 1 (0B0) for 1B0", "rank 1 waits at position 1 (1F1) for 0F1"],
    }
    code, out, _ = run("verify", "right.txt", "-p", "two.toml", "--format", "json")
    measures = json.loads(out)["measures"]
    assert (code, measures["makespan"], measures["bubble_fraction"]) == (0, 9, pytest.approx(1 / 3))
    assert (measures["peak_in_flight"], measures["bubble_overhead"]) == ([2, 1], 0.5)


def test_verify_github_annotates_the_line_of_the_rank(run: Any) -> None:
    Path("stuck.txt").write_text("# two ranks\n\n" + STUCK, encoding="utf-8")
    code, out, _ = run("verify", "stuck.txt", "--format", "github")
    assert code == 1
    assert out.startswith("::error file=stuck.txt,line=3,title=SV201::rank 0 waits at position 1")


def test_select_ignore_and_excerpt(run: Any) -> None:
    assert run("verify", "stuck.txt", "--select", "sv1,SV4")[0] == 0
    assert run("verify", "stuck.txt", "--ignore", "SV201")[0] == 0
    code, _, err = run("verify", "stuck.txt", "--select", "SV9")
    assert (code, "unknown property 'SV9'" in err) == (2, True)
    Path("part.txt").write_text("0B1\n1B1\n", encoding="utf-8")
    assert run("verify", "part.txt", "-p", "two.toml")[0] == 1
    assert run("verify", "part.txt", "-p", "two.toml", "--excerpt")[0] == 0


def test_without_a_problem_the_report_says_so(run: Any) -> None:
    code, out, err = run("verify", "right.txt")
    assert (code, "unit costs" in err, "as read from the file" in out) == (0, True, True)


def test_generate_and_simulate(run: Any) -> None:
    code, out, _ = run("generate", "1f1b", "--ranks", "2", "--microbatches", "2")
    assert (code, out) == (0, RIGHT)
    assert run("generate", "1f1b", "--problem", "two.toml", "-o", "made.txt")[0] == 0
    assert Path("made.txt").read_text(encoding="utf-8") == RIGHT
    code, out, _ = run("simulate", "made.txt", "-p", "two.toml", "--format", "json")
    data = json.loads(out)
    assert data["timeline"][1][0] == {"op": "1F0", "start": 1, "end": 2}
    assert data["measures"]["makespan"] == 9
    code, out, _ = run("simulate", "made.txt", "-p", "two.toml")
    assert (code, "bubble fraction" in out) == (0, True)


def test_simulate_of_a_schedule_that_hangs_is_a_verdict(run: Any) -> None:
    code, _, err = run("simulate", "stuck.txt", "-p", "two.toml")
    assert (code, "cannot run to its end" in err) == (1, True)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("generate", "1f1c", "--ranks", "2", "--microbatches", "2"), "did you mean '1f1b'?"),
        (("generate", "1f1b", "--ranks", "2"), "--ranks P and --microbatches M"),
        (("generate", "1f1b", "-p", "two.toml", "--ranks", "2"), "stands beside --problem"),
        (("generate", "1f1b", "--ranks", "0", "--microbatches", "2"), "ranks: expected a whole number from 1"),
        (("generate", "interleaved-1f1b", "-p", "two.toml"), "virtual = 2"),
        (("verify", "absent.txt"), "absent.txt"),
        (("verify",), "verify: SCHEDULE is missing"),
        (("verify", "right.txt", "--format", "xml"), "xml"),
        (("verify", "right.txt", "--bogus"), "--bogus"),
        (("nonsense",), "nonsense"),
        (("explain", "SV999"), "unknown property 'SV999'"),
        (("optimize", "two.toml", "--hint", "stuck.txt"), "hint: SV201"),
        (("convert", "right.txt", "out.xyz"), "no form is known"),
    ],
)
def test_wrong_usage_is_told_with_a_hint(run: Any, arguments: tuple[str, ...], message: str) -> None:
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert message in err
    assert "Traceback" not in err


def test_optimize_writes_a_plan_that_verifies(run: Any) -> None:
    code, out, err = run("optimize", "two.toml", "-o", "plan.json", "--workers", "1")
    assert (code, "optimal: makespan 9 ticks" in out, "plan written to plan.json" in err) == (0, True, True)
    assert "1f1b" in out
    assert run("verify", "plan.json")[0] == 0
    assert run("verify", "plan.json", "-p", "two.toml")[0] == 0
    first = Path("plan.json").read_bytes()
    run("optimize", "two.toml", "-o", "plan.json", "--workers", "1")
    assert Path("plan.json").read_bytes() == first
    Path("other.toml").write_text(PROBLEM.replace("forward = 1", "forward = 3"), encoding="utf-8")
    code, _, err = run("verify", "plan.json", "-p", "other.toml")
    assert (code, "the plan is of another problem" in err) == (2, True)


def test_optimize_json(run: Any) -> None:
    code, out, _ = run("optimize", "two.toml", "--format", "json", "--objective", "span")
    data = json.loads(out)
    assert (code, data["status"], data["objective"], data["value"], data["bound"]) == (0, "optimal", "span", 9, 9)
    assert (data["gap"], len(data["schedule"]), data["reason"]) == (0, 2, "")


def test_an_infeasible_problem_ends_with_one(run: Any) -> None:
    text = "ranks = 1\nvirtual = 2\nmicrobatches = 1\n[costs]\nforward = 1\nbackward = 2\n[limits]\nin_flight = 1\n"
    Path("tight.toml").write_text(text, encoding="utf-8")
    code, out, _ = run("optimize", "tight.toml", "--format", "json")
    data = json.loads(out)
    assert (code, data["status"], data["schedule"]) == (1, "infeasible", None)
    assert "in_flight" in data["reason"]
    code, out, err = run("optimize", "tight.toml", "-o", "none.json")
    assert (code, "plan written to none.json" in err) == (1, True)
    assert "infeasible" in out
    assert run("verify", "none.json")[0] == 0
    assert run("verify", "none.json", "--problem", "tight.toml")[0] == 0
    assert run("verify", "none.json", "--problem", "two.toml")[0] == 2


def test_draw_and_convert(run: Any) -> None:
    code, out, _ = run("draw", "right.txt", "-p", "two.toml")
    assert (code, "0" in out) == (0, True)
    assert run("draw", "stuck.txt", "-p", "two.toml", "-o", "stuck.svg")[0] == 0
    assert "SV201" in Path("stuck.svg").read_text(encoding="utf-8")
    assert run("convert", "right.txt", "out.csv")[0] == 0
    assert Path("out.csv").read_text(encoding="utf-8") == "0F0,0F1,0B0,0B1\n1F0,1B0,1F1,1B1\n"
    assert run("convert", "out.csv", "-")[1] == RIGHT
    assert run("convert", "out.csv", "back.json", "-p", "two.toml")[0] == 0
    assert run("verify", "back.json")[0] == 0
    assert run("convert", "back.json", "trace.json", "--to", "trace")[0] == 0
    assert len(json.loads(Path("trace.json").read_text(encoding="utf-8"))["traceEvents"]) >= 8
    code, _, err = run("convert", "stuck.txt", "bad.json", "-p", "two.toml")
    assert (code, "SV201" in err, Path("bad.json").exists()) == (1, True, False)


def test_new_is_a_problem_to_begin_with(run: Any) -> None:
    assert run("new", "-o", "mine.toml")[0] == 0
    assert run("generate", "gpipe", "-p", "mine.toml")[0] == 0


def test_families_and_explain(run: Any) -> None:
    code, out, _ = run("families")
    assert (code, all(name in out for name in ("naive", "1f1b", "interleaved-1f1b", "zb-h2"))) == (0, True)
    assert {"name", "source", "placement", "shapes"} <= set(
        json.loads(run("families", "--format", "json")[1])["families"][0]
    )
    assert run("explain", "sv104")[1].startswith("## SV104: nothing twice")


def test_standard_input_and_output(files: Path) -> None:
    made = subprocess.run(
        [sys.executable, "-m", "schedverify", "verify", "-", "-p", "two.toml"],
        input=RIGHT, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (made.returncode, made.stdout.startswith("standard input: holds")) == (0, True)


def test_help_and_version_are_light() -> None:
    text = "import sys; from schedverify.cli import main; main(['--help']); print(*sys.modules)"
    out = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True).stdout
    assert "optimize" in out
    assert not {"ortools", "networkx", "numba", "torch", "numpy"} & set(out.splitlines()[-1].split())


def test_a_reader_that_hangs_up_is_no_error(files: Path) -> None:
    command = f"{sys.executable} -m schedverify generate gpipe --ranks 8 --microbatches 20000 | head -c 10"
    out = subprocess.run(["bash", "-c", command], capture_output=True, text=True, timeout=60, check=False)
    assert (out.stdout, out.stderr) == ("0F0 0F1 0F", "")


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_search_keeps_the_best(files: Path, number: signal.Signals) -> None:
    hard = (
        'ranks = 8\nmicrobatches = 24\nvirtual = 2\nplacement = "v"\n[costs]\nforward = 19\nbackward_input = 17\n'
        "backward_weight = 11\n[links]\nlatency = 3\n[memory]\nactivation = 2\nweight_stash = 1\ncapacity = 20\n"
    )
    Path("hard.toml").write_text(hard, encoding="utf-8")
    command = [sys.executable, "-m", "schedverify", "optimize", "hard.toml", "--time-limit", "250", "-o", "hard.json"]
    terminal, other_end = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=other_end, text=True, env=environment)
    os.close(other_end)
    shown = read_until(terminal, rb"best [0-9]")
    process.send_signal(number)
    rest = threading.Thread(target=lambda: shown.extend(read_until(terminal, rb"\Z.")), daemon=True)
    rest.start()
    out, _ = process.communicate(timeout=120)
    rest.join(timeout=30)
    assert b"Traceback" not in shown
    assert process.returncode == 0
    assert "feasible: makespan" in out
    assert main(["verify", "hard.json"]) == 0


def read_until(terminal: int, pattern: bytes) -> bytearray:
    """Return what comes out of a terminal until a pattern stands in it, or the other end is closed."""
    shown = bytearray()
    with contextlib.suppress(OSError):  # EIO, where nothing holds the other end any more
        while not re.search(pattern, shown) and (piece := os.read(terminal, 4096)):
            shown += piece
    return shown


def loaded_by(*arguments: str) -> set[str]:
    """Return the modules that a command has loaded when it is done."""
    text = (
        f"import sys; from schedverify.cli import main; main({list(arguments)}); print(*sys.modules, file=sys.stderr)"
    )
    made = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=60, check=True)
    return set(made.stderr.splitlines()[-1].split())


def test_the_version_loads_no_parser_and_nothing_that_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"{sv.__version__}\n"
    assert not {"cyclopts", "rich", "numpy"} & loaded_by("--version")


def test_help_loads_no_markdown() -> None:
    assert not {"markdown_it", "rich.markdown", "numpy"} & loaded_by("--help")


def test_a_command_loads_no_other_and_a_text_no_reader_of_anything_else(files: Path) -> None:
    found = {module for module in loaded_by("verify", "right.txt") if module.startswith(("schedverify", "rich"))}
    commands = {module for module in found if module.startswith("schedverify.cli.")}
    parts = ("app", "options", "report_text", "shapes", "signals", "terminal", "verify")
    assert commands == {f"schedverify.cli.{name}" for name in parts}
    formats = {module for module in found if module.startswith("schedverify.formats.")}
    readers = ("layouts", "loading", "schedule_forms", "table_marks", "text_files")
    assert formats == {f"schedverify.formats.{name}" for name in readers}
    assert "rich" not in found
    rooms = {module.split(".")[1] for module in found if "." in module and module.startswith("schedverify")}
    assert rooms == {"cli", "core", "formats", "simulator", "verifier"}


def test_a_pipe_gets_what_rich_would_print(files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tables, lines and remarks that go into a pipe as they are equal those that rich lays out there."""
    from schedverify.cli import terminal

    commands = (("simulate", "right.txt", "-p", "two.toml"), ("verify", "stuck.txt"), ("verify", "right.txt"))
    plain = [printed(command) for command in commands]
    assert not terminal.out.cache_info().currsize  # the last of them needs no rich
    monkeypatch.setenv("TTY_COMPATIBLE", "0")  # rich prints everything then, and takes no pipe for a terminal
    assert [printed(command) for command in commands] == plain
    assert terminal.out.cache_info().currsize


def test_a_program_that_calls_a_command_keeps_its_garbage_collector(
    files: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    before = gc.get_threshold()
    try:
        main(["verify", "right.txt"])
        assert gc.get_threshold() == before
        monkeypatch.setattr(sys, "argv", ["schedverify", "verify", "right.txt"])
        main()
        assert gc.get_threshold()[0] > before[0]
    finally:
        gc.set_threshold(*before)


def printed(command: tuple[str, ...]) -> tuple[str, str]:
    from schedverify.cli import terminal

    terminal.out.cache_clear()
    terminal.err.cache_clear()
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        main(command)
    return out.getvalue(), err.getvalue()


def test_a_selection_of_which_nothing_applies_ends_with_3(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "right.txt").write_text(RIGHT)
    (files / "p.toml").write_text(PROBLEM)
    command = ["verify", "right.txt", "--problem", "p.toml", "--select", "SV402"]
    assert main(command) == 3
    told = " ".join(capsys.readouterr().out.split())
    assert told.startswith(
        "right.txt: not applicable: SV402 SV402: the problem limits no memory (memory.capacity does)"
    )
    assert "(memory.capacity does)" in told
    assert main([*command, "--format", "json"]) == 3
    printed = json.loads(capsys.readouterr().out)
    assert (printed["verdict"], printed["ok"]) == ("not applicable", False)
    assert main([*command, "--format", "github"]) == 3
    assert capsys.readouterr().out.startswith("::warning file=right.txt,title=schedverify::SV402 not applicable: ")
    assert main([*command[:-1], "SV402,SV201"]) == 0


def test_verbose_has_a_line_for_each_property(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "right.txt").write_text(RIGHT)
    assert main(["verify", "right.txt"]) == 0
    short = capsys.readouterr().out.splitlines()
    for option in ("-v", "--verbose"):
        assert main(["verify", "right.txt", option]) == 0
        long = capsys.readouterr().out.splitlines()
        assert (long[0], long[21:]) == (short[0], short[2:])
        assert [line.split()[0] for line in long[1:21]][:5] == ["SV101", "SV102", "SV103", "SV104", "SV201"]
        assert "no timeline is handed in" in long[6]
