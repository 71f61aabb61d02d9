"""Searches in processes of their own, sent a signal while a named part runs: the answer is kept, nothing is left.

The part is read off the progress line, so no moment depends on a clock; the limits of time are never met.
"""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

import psutil
import pytest

from schedverify.cli import main

pytestmark = [pytest.mark.slow, pytest.mark.skipif(os.name == "nt", reason="signals and terminals of POSIX")]

HARD = (
    'ranks = 8\nmicrobatches = 24\nvirtual = 2\nplacement = "v"\n[costs]\nforward = 19\nbackward_input = 17\n'
    "backward_weight = 11\n[links]\nlatency = 3\n[memory]\nactivation = 2\nweight_stash = 1\ncapacity = 20\n"
)
WIDE = (
    "ranks = 8\nmicrobatches = 96\nvirtual = 4\n[costs]\nforward = 1852\nbackward_input = 1808\n"
    "backward_weight = 933\n[links]\nlatency = 61\n"
)
"""Large enough for every part before the solvers to take long."""
TIGHT = WIDE + "[memory]\ncapacity = 12\n"
"""Too little memory for any family."""
SMALL = "ranks = 4\nmicrobatches = 8\n[costs]\nforward = 1\nbackward = 2\n[links]\nlatency = 1\n"
MODEL = 'name = "m"\n' + "".join(
    f'[[layer]]\nname = "l{i}"\nforward = {7 + i * 5 % 11}\nbackward = {13 + i * 7 % 17}\noutput = {i % 5}\n'
    f"activation = 3\n"
    for i in range(40)
)
FEW = (
    'ranks = 4\nmicrobatches = 6\nform = "split"\n[costs]\nforward = [19, 23, 17, 29]\n'
    "backward_input = [17, 31, 13, 19]\nbackward_weight = [11, 5, 13, 7]\n[links]\nlatency = 3\n[memory]\n"
    "activation = 2\nweight_stash = 1\ncapacity = 5\n"
)
"""Too few operations for a local search, and not proved without a solver."""
ENDLESS = "100000"


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    texts = {
        "hard.toml": HARD,
        "wide.toml": WIDE,
        "tight.toml": TIGHT,
        "small.toml": SMALL,
        "few.toml": FEW,
        "model.toml": MODEL,
    }
    for name, text in texts.items():
        Path(name).write_text(text, encoding="utf-8")
    return tmp_path


class Ended:
    """How a command ended that was sent a signal once its progress line had shown a pattern."""

    def __init__(self, words: Sequence[str], pattern: bytes, *numbers: signal.Signals) -> None:
        terminal, other_end = pty.openpty()
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "200"}
        command = [sys.executable, "-m", "schedverify", *words]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=other_end, text=True, env=environment)
        os.close(other_end)
        try:
            self._watch(process, terminal, pattern, numbers)
        finally:
            process.kill()

    def _watch(
        self, process: subprocess.Popen[str], terminal: int, pattern: bytes, numbers: Sequence[signal.Signals]
    ) -> None:
        self.shown = read_until(terminal, pattern)
        self.reached = re.search(pattern, self.shown) is not None
        children = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
        for number in numbers:
            process.send_signal(number)
        rest = threading.Thread(target=lambda: self.shown.extend(read_until(terminal, rb"\Z.")), daemon=True)
        rest.start()
        self.out, _ = process.communicate(timeout=150)
        rest.join(timeout=30)
        os.close(terminal)
        self.code = process.returncode
        _, self.left = psutil.wait_procs(children, timeout=30)


def read_until(terminal: int, pattern: bytes) -> bytearray:
    """Return what comes out of a terminal until a pattern stands in it, or the other end is closed."""
    shown = bytearray()
    with contextlib.suppress(OSError):  # EIO, where nothing holds the other end any more
        while not re.search(pattern, shown) and (piece := os.read(terminal, 4096)):
            shown += piece
    return shown


def check_end(ended: Ended, written: str) -> None:
    """Check that the command kept what it had: a verified plan with exit code 0, or none with 3; and left nothing."""
    assert ended.reached, ended.shown
    assert b"Traceback" not in ended.shown
    assert not ended.left
    assert ended.code in (0, 3), ended.shown
    assert ("makespan" in ended.out and "unknown" not in ended.out) == (ended.code == 0), ended.out
    assert Path(written).exists() == (ended.code == 0)
    assert not list(Path().glob(".*"))  # no half file
    if ended.code == 0:
        assert main(["verify", written, "--ignore", "SV502"]) == 0


PARTS = [
    ("wide.toml", "families"),
    ("wide.toml", "known schedules"),
    ("wide.toml", "list schedules"),
    ("tight.toml", "list schedules"),
    ("hard.toml", "local search"),
    ("hard.toml", "counts"),
    ("hard.toml", "CP-SAT"),
]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(("problem", "part"), PARTS)
def test_optimize_keeps_its_best_in_every_part(files: Path, problem: str, part: str, number: signal.Signals) -> None:
    limit = "20" if part == "CP-SAT" else ENDLESS  # the parts before it may take shares of the time
    words = ["optimize", problem, "--time-limit", limit, "--workers", "2", "-o", "plan.json"]
    check_end(Ended(words, re.escape(part.encode()), number), "plan.json")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_optimize_finishes_the_plan_that_it_has_found(files: Path, number: signal.Signals) -> None:
    words = ["optimize", "wide.toml", "--time-limit", "0", "-o", "plan.json"]
    ended = Ended(words, b"lowering and verifying", number)
    check_end(ended, "plan.json")
    assert ended.code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_second_objective_is_kept_too(files: Path, number: signal.Signals) -> None:
    words = ["optimize", "hard.toml", "--then", "peak-memory", "--time-limit", "2", "-o", "plan.json"]
    check_end(Ended(words, b"best [0-9]", number), "plan.json")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_explanation_that_is_stopped_loses_no_plan(files: Path, number: signal.Signals) -> None:
    words = ["optimize", "small.toml", "--time-limit", ENDLESS, "--explain", "-o", "plan.json"]
    check_end(Ended(words, b"lowering and verifying", number), "plan.json")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("pattern", [b"of 100000 s", b"[1-9] partitions looked at", b"best [0-9]"])
@pytest.mark.parametrize("virtual", ["1", "2"])
def test_the_joint_search_keeps_its_best(files: Path, virtual: str, pattern: bytes, number: signal.Signals) -> None:
    shape = ["--ranks", "4", "--virtual", virtual, "--microbatches", "24"]
    words = ["partition", "model.toml", *shape, "--joint", "--time-limit", ENDLESS, "--plan", "plan.json"]
    check_end(Ended(words, pattern, number), "plan.json")


def test_a_second_ctrl_c_ends_without_a_traceback(files: Path) -> None:
    words = ["optimize", "wide.toml", "--time-limit", ENDLESS]
    ended = Ended(words, b"list schedules", signal.SIGINT, signal.SIGINT)
    assert b"Traceback" not in ended.shown
    assert ended.code in (0, 3)


SOLVING = """
import sys
from ortools.sat.python import cp_model
solve = cp_model.CpSolver.solve
def told(self, *arguments):
    print("solving", flush=True)
    return solve(self, *arguments)
cp_model.CpSolver.solve = told
sys.argv = ["schedverify", *{words!r}]
from schedverify.cli import main
sys.exit(main())
"""
"""A command that says when it calls the solver."""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_cut_with_several_stages_a_rank_is_kept(files: Path, number: signal.Signals) -> None:
    words = ["partition", "model.toml", "--ranks", "4", "--virtual", "4", "--time-limit", ENDLESS, "-o", "p.toml"]
    text = SOLVING.format(words=words)
    with subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "solving\n"
        process.send_signal(number)
        out, err = process.communicate(timeout=150)
    assert "Traceback" not in err
    assert process.returncode == 0, err
    assert "makespan" in out
    assert Path("p.toml").exists()


ASKING = """
import sys
from schedverify.optimizer.solvers import pumpkin
sys.executable and pumpkin._run(open({stdin!r}), float("inf"), lambda: False, pumpkin.Path({program!r}))
"""
CHILD = """
import importlib.util, os, sys
spec = importlib.util.spec_from_file_location("child", {program!r})
child = importlib.util.module_from_spec(spec)
spec.loader.exec_module(child)
child._end_with_parent()
with open({fifo!r}, "w") as file:
    file.write(str(os.getpid()))
while True:
    pass
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel of Linux ends it")
def test_the_second_solver_ends_with_the_process_that_asked(tmp_path: Path) -> None:
    """It holds the interpreter's lock, as the loop here; its parent is killed, and cannot end it."""
    from schedverify.optimizer.solvers.pumpkin import PROGRAM

    fifo, program, stdin = tmp_path / "fifo", tmp_path / "child.py", tmp_path / "question"
    os.mkfifo(fifo)
    stdin.write_text("", encoding="utf-8")
    program.write_text(CHILD.format(program=str(PROGRAM), fifo=str(fifo)), encoding="utf-8")
    text = ASKING.format(stdin=str(stdin), program=str(program))
    with subprocess.Popen([sys.executable, "-c", text]) as process:
        child = psutil.Process(int(fifo.read_text(encoding="utf-8")))
        process.kill()
        assert not psutil.wait_procs([child], timeout=60)[1]


def test_json_is_whole_where_a_search_is_stopped(files: Path) -> None:
    text = SOLVING.format(words=["optimize", "few.toml", "--time-limit", ENDLESS, "--format", "json"])
    with subprocess.Popen(
        [sys.executable, "-c", text], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "solving\n"
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=150)
    assert process.returncode == 0, err
    assert json.loads(out.replace("solving\n", ""))["status"] in ("feasible", "optimal")
