"""Is anything lost when work is ended from without: Ctrl-C and SIGTERM at random moments, for as long as one likes.

``python benchmarks/signals.py`` starts long commands, sends a signal at a random moment, and looks at the exit code, at
what was printed and written, at processes that are left, and at the seconds until the end. What is wrong is printed
below the table, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Collection, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from printing import progress, publish, table, where

import schedverify as sv

SOON, PATIENCE, MOST_TOLD = 2.0, 90.0, 40
"""Seconds in which a command should end, and those after which its end is no longer waited for."""
PROBLEM = """\
ranks = 8
virtual = 2
placement = "v"
microbatches = 16
form = "split"
costs = { forward = 18, backward_input = 18, backward_weight = 10 }
links = { latency = 1 }
memory = { activation = 2, weight_stash = 1, capacity = 40 }
"""
LARGE = """\
ranks = 64
virtual = 4
microbatches = 1024
costs = { forward = 1, backward = 2 }
"""
LAYERS = "".join(
    f'[[layer]]\nname = "l{i}"\nforward = {9 + i % 5}\nbackward_input = {9 + i % 3}\nbackward_weight = {6 + i % 4}\n'
    for i in range(20)
)
MODULE = """\
from torch import nn

def model():
    return nn.Sequential(*(nn.Linear(64, 64) for _ in range(2)))
"""
SCRIPT = """\
import schedverify as sv
from schedverify.testing import certify

def scheduler(problem):
    return sv.generate("1f1b", problem)

if __name__ == "__main__":
    print("begins", flush=True)
    statement = certify(scheduler, ranks=80, microbatches=80, path="statement.json")
    print("stated", len(statement.shapes), flush=True)
"""


class Case(NamedTuple):
    """A long command: its words, how many seconds the moments are spread over, and the codes it may end with.

    ``begins`` is what it prints before the first moment, ``answers`` whether exit code 0 comes with an answer.
    """

    words: tuple[str, ...]
    seconds: float
    codes: dict[int, tuple[int, ...]]
    begins: str = ""
    answers: bool = False


class Ended(NamedTuple):
    """How a command ended after a signal: its exit code, the seconds that it took, and what is wrong in lines."""

    code: int
    seconds: float
    wrong: list[str]


INTERRUPTED = {signal.SIGINT: (0, 130), signal.SIGTERM: (0, 143)}
SEARCHED = {signal.SIGINT: (0, 3), signal.SIGTERM: (0, 3)}
CASES = {
    "optimize": Case(("optimize", "problem.toml", "-o", "plan.json"), 20, SEARCHED, answers=True),
    "optimize, a large problem": Case(("optimize", "large.toml", "-o", "plan.json"), 40, SEARCHED, answers=True),
    "optimize --explain": Case(
        ("optimize", "problem.toml", "--time-limit", "5", "--explain"), 20, SEARCHED, answers=True,
    ),
    "partition --joint": Case(
        ("partition", "model.toml", "--ranks", "4", "--joint", "--plan", "plan.json", "-o", "cut.toml"), 20, SEARCHED,
        answers=True,
    ),
    "run": Case(
        ("run", "small.json", "--model", "module:model", "--steps", "20000"), 15, INTERRUPTED,
    ),
    "verify, 10 million operations": Case(("verify", "long.txt", "--problem", "long.toml"), 15, INTERRUPTED),
    "certify": Case((), 15, {signal.SIGINT: (0,), signal.SIGTERM: (-signal.SIGTERM,)}, begins="begins"),
}  # fmt: skip


def prepare(folder: Path, chosen: Collection[str]) -> None:
    """Write what the chosen commands read."""
    texts = {
        "problem.toml": PROBLEM,
        "large.toml": LARGE,
        "model.toml": LAYERS,
        "module.py": MODULE,
        "script.py": SCRIPT,
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    small = sv.Problem.chain(ranks=2, microbatches=4)
    sv.save(sv.plan_of(sv.generate("1f1b", small), small), folder / "small.json")
    if "verify, 10 million operations" in chosen:
        long = sv.Problem.chain(ranks=256, microbatches=20_000)
        sv.save(long, folder / "long.toml")
        sv.save(sv.generate("1f1b", long), folder / "long.txt")


def ended(case: Case, folder: Path, rng: random.Random) -> Ended:
    """Start a command, send it a signal at a random moment, and say how it ended."""
    number = rng.choice((signal.SIGINT, signal.SIGTERM))
    moment = rng.uniform(0, 0.3) if rng.random() < 0.2 else rng.uniform(0, case.seconds)
    command = (sys.executable, "-m", "schedverify", *case.words) if case.words else (sys.executable, "script.py")
    before = set(folder.rglob("*"))
    with subprocess.Popen(  # noqa: S603
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as process:
        assert process.stdout is not None
        if case.begins:
            process.stdout.readline()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(moment)
        was_over, began = process.poll() is not None, time.monotonic()
        if not was_over:
            _send(process.pid, number)
        try:
            out, err = process.communicate(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            out, err = "", f"still there after {PATIENCE:.0f} s"
            os.killpg(process.pid, signal.SIGKILL)
    took = 0.0 if was_over else time.monotonic() - began
    wrong = list(_wrongs(case, number, process.returncode, out, err))
    wrong += [f"took {took:.1f} s to end"] * (took > SOON)
    wrong += [f"left process {each}" for each in _left(process.pid)]
    wrong += list(_half_files(folder, before))
    told = f"{' '.join(command[2:])}: {number.name} after {moment:.2f} s, exit code {process.returncode}: "
    return Ended(process.returncode, took, [told + each for each in wrong])


def _send(group: int, number: signal.Signals) -> None:
    """Send Ctrl-C to all processes of the terminal, as it does, and SIGTERM to the command alone."""
    with contextlib.suppress(ProcessLookupError):
        if number == signal.SIGINT:
            os.killpg(group, number)
        else:
            os.kill(group, number)


def _wrongs(case: Case, number: signal.Signals, code: int, out: str, err: str) -> Iterator[str]:
    if "schedverify" not in err and "Traceback" in err:
        return  # Python was still loading itself: not a line of ours had been read
    if code not in case.codes[number]:
        yield f"unexpected exit code: {err[-300:]!r}"
    if "Traceback" in err or "Exception" in err:
        yield f"a traceback: {err[-300:]!r}"
    if case.answers and code == 0 and not out.strip():
        yield "no answer"
    if case.begins and code == 0 and not out.splitlines()[-1].startswith("stated"):
        yield "no statement"


def _left(session: int) -> list[str]:
    """Return the processes of a session that are left a little after its first has ended; they are killed."""
    for _ in range(20):
        found = [path for path in Path("/proc").glob("[0-9]*/stat") if _session(path) == session]
        if not found:
            return []
        time.sleep(0.1)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(session, signal.SIGKILL)
    return [path.parent.name for path in found]


def _session(path: Path) -> int | None:
    """Return the session of a process, None where it is gone or only waits to be forgotten."""
    try:
        state, _, _, session = path.read_text(encoding="utf-8").rpartition(")")[2].split()[:4]
    except OSError:
        return None
    return None if state == "Z" else int(session)


def _half_files(folder: Path, before: set[Path]) -> Iterator[str]:
    """Yield each new file that is not whole, and take all new ones away."""
    for path in sorted(set(folder.rglob("*")) - before, reverse=True):
        if path.is_dir():
            with contextlib.suppress(OSError):
                path.rmdir()
            continue
        if path.suffix == ".json" and path.name != "statement.json" and path.parent == folder:
            if not (report := sv.verify(sv.load(path))).ok:
                yield f"{path.name}: {report.verdict}"
        elif path.suffix == ".toml":
            sv.load(path)
        elif path.name != "statement.json.part" and "__pycache__" not in path.parts:
            yield f"left {path.name}"
        path.unlink()


def main() -> None:
    """Send signals; print how the commands ended, and what went wrong."""
    parser = argparse.ArgumentParser(description="signals at random moments, and what is lost by them")
    parser.add_argument("--count", type=int, default=20, help="signals for each command")
    parser.add_argument("--seed", type=int, default=0, help="seed of the moments")
    parser.add_argument("--only", choices=CASES, help="one of the commands")
    parser.add_argument("--update", action="store_true", help="put what is printed into docs/benchmarks.md")
    options = parser.parse_args()
    rows, wrong = [], []
    with TemporaryDirectory() as name, progress() as bar:
        chosen = [options.only] if options.only else list(CASES)
        prepare(Path(name), chosen)
        task = bar.add_task("signals", total=len(chosen) * options.count)
        for case in chosen:
            found = []
            for number in range(options.count):
                found.append(ended(CASES[case], Path(name), random.Random(f"{options.seed} {case} {number}")))
                bar.advance(task)
            codes = ", ".join(f"{code}: {count}" for code, count in sorted(Counter(one.code for one in found).items()))
            wrong += [line for one in found for line in one.wrong]
            rows.append(
                [
                    case,
                    len(found),
                    codes,
                    f"{max(one.seconds for one in found):.2f}",
                    sum(bool(one.wrong) for one in found),
                ]
            )
    head = ["command", "signals", "exit codes", "longest end, s", "wrong"]
    publish("signals", f"{where('numpy')}; seed {options.seed}.\n\n{table(head, rows)}", update=options.update)
    print("\n".join(wrong[:MOST_TOLD]))
    sys.exit(1 if wrong else 0)


if __name__ == "__main__":
    main()
