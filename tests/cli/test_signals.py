"""Ctrl-C and SIGTERM, in processes that send them to themselves at a moment that the test names."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

import schedverify
from schedverify.cli import main, signals

pytestmark = pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")

PACKAGE = Path(schedverify.__file__).parent
AT_IMPORT = """
import os, sys
class Signal:
    def find_spec(self, name, path, target=None):
        if name == {module!r}:
            os.kill(os.getpid(), {number})
sys.meta_path.insert(0, Signal())
sys.argv = ["schedverify", *{words!r}]
from schedverify.cli import main
sys.exit(main())
"""
"""A command that gets a signal when it begins to load a module."""
PROBLEM = "ranks = 2\nmicrobatches = 3\n[costs]\nforward = 1\nbackward = 2\n"
ORDER = "0F0 0F1 0B0 0F2 0B1 0B2\n1F0 1B0 1F1 1B1 1F2 1B2\n"
MODEL = 'name = "m"\n' + "".join(f'[[layer]]\nname = "l{i}"\nforward = 1\nbackward = 2\n' for i in range(4))


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name, text in (("p.toml", PROBLEM), ("s.txt", ORDER), ("m.toml", MODEL)):
        Path(name).write_text(text, encoding="utf-8")
    return tmp_path


def at_import(module: str, number: int, *words: str) -> subprocess.CompletedProcess[str]:
    text = AT_IMPORT.format(module=module, number=int(number), words=words)
    return subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("module", ["schedverify.cli.app", "cyclopts", "schedverify.cli.verify", "numpy"])
def test_a_command_that_is_loading_ends_without_a_traceback(
    files: Path, module: str, number: signal.Signals, code: int
) -> None:
    made = at_import(module, number, "verify", "s.txt", "-p", "p.toml")
    assert (made.returncode, made.stdout, made.stderr) == (code, "", "schedverify: interrupted\n")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize(
    ("module", "words"),
    [
        ("schedverify.cli.app", ("optimize", "p.toml")),
        ("numpy", ("optimize", "p.toml", "-o", "plan.json")),
        ("schedverify.planner.plans", ("optimize", "p.toml")),
        ("schedverify.models", ("partition", "m.toml", "--ranks", "2")),
        ("schedverify.planner.joint", ("partition", "m.toml", "--ranks", "2", "--joint")),
    ],
)
def test_a_search_that_is_loading_has_no_answer(
    files: Path, module: str, words: tuple[str, ...], number: signal.Signals
) -> None:
    made = at_import(module, number, *words)
    assert (made.returncode, made.stdout, made.stderr) == (3, "", "schedverify: interrupted\n")
    assert sorted(path.name for path in files.iterdir()) == ["m.toml", "p.toml", "s.txt"]


def test_a_signal_that_a_library_swallows_ends_the_command_all_the_same(files: Path) -> None:
    text = """
import os, signal, sys
class Signal:
    def find_spec(self, name, path, target=None):
        if name == "schedverify.verifier.verification":
            try:
                os.kill(os.getpid(), signal.SIGINT)
            except KeyboardInterrupt:
                raise ImportError("as a library tells it")
sys.meta_path.insert(0, Signal())
sys.argv = ["schedverify", "verify", "s.txt"]
from schedverify.cli import main
sys.exit(main())
"""
    made = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert (made.returncode, made.stderr) == (130, "schedverify: interrupted\n")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_where_python_can_only_tell_of_an_exception_ends_the_process(
    number: signal.Signals, code: int
) -> None:
    text = f"""
import os, weakref
from schedverify.cli import signals
class Thing: pass
signals.interrupt(["verify"])
thing = Thing()
watch = weakref.ref(thing, lambda _: os.kill(os.getpid(), {int(number)}))
del thing
print("went on")
"""
    made = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert (made.returncode, made.stdout, made.stderr) == (code, "", "")


def test_a_signal_behind_the_end_of_a_command_changes_nothing() -> None:
    text = """
import atexit, os, signal, sys
atexit.register(os.kill, os.getpid(), signal.SIGINT)
sys.argv = ["schedverify", "families"]
from schedverify.cli import main
sys.exit(main())
"""
    made = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, timeout=120)
    assert (made.returncode, made.stderr) == (0, "")
    assert "gpipe" in made.stdout


def test_a_second_ctrl_c_is_an_interrupt_and_a_second_sigterm_is_not() -> None:
    with signals.restored():
        stop = signals.stop_at_signal()
        assert not stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        assert stop.is_set()
        signal.raise_signal(signal.SIGTERM)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)


def test_a_function_call_of_the_command_line_leaves_signals_as_they_were(files: Path) -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    assert main(["optimize", "p.toml", "--time-limit", "5"]) == 0
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_only_the_command_line_answers_signals() -> None:
    """And processes that are started for a rank or as workers, which leave Ctrl-C to their parent."""
    files = {
        path.relative_to(PACKAGE).as_posix()
        for path in PACKAGE.rglob("*.py")
        if re.search(r"signal\.signal\(|catch_sigint_signal = True|set_wakeup_fd", path.read_text(encoding="utf-8"))
    }
    assert files == {"cli/signals.py", "runner/launch/processes.py", "testing/workers.py"}
