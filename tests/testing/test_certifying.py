"""Every shape up to a bound: what is stated, the smallest failure, interruptions, and files that were changed."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import schedverify as sv
from schedverify.core.errors import InputError
from schedverify.formats.plan_files import canonical, digest
from schedverify.testing import SchedulerFault, certify, load_statement
from schedverify.testing.statements import load_part
from schedverify.testing.workers import interrupts_later
from testing.test_checking import loses_the_last_microbatch, right

Scheduler = Callable[[sv.Problem], sv.Schedule]


def wrong_from(operations: int) -> Scheduler:
    """Return a scheduler that loses a micro-batch of 2 ranks or more, from so many operations on."""

    def scheduler(problem: sv.Problem) -> sv.Schedule:
        large = problem.ranks >= 2 and problem.ranks * problem.microbatches >= operations
        return loses_the_last_microbatch(problem) if large else right(problem)

    return scheduler


class Interrupted:
    """A scheduler that is interrupted at its n-th call, and counts the calls."""

    def __init__(self, call: int | None) -> None:
        self.call, self.calls = call, 0

    def __call__(self, problem: sv.Problem) -> sv.Schedule:
        self.calls += 1
        if self.calls == self.call:
            raise KeyboardInterrupt
        return right(problem)


def test_every_shape_is_stated_and_processes_change_no_byte(tmp_path: Path) -> None:
    files = [tmp_path / name for name in ("one.json", "two.json")]
    one, two = (
        certify(right, ranks=3, microbatches=4, latency=1, path=path, workers=workers)
        for workers, path in enumerate(files, 1)
    )
    assert files[0].read_bytes() == files[1].read_bytes()
    assert one == two == load_statement(files[0])
    assert one.counts == {"checked": 12, "skipped": 0}
    assert {shape[:3] for shape in one.shapes} == {(p, 1, m) for p in range(1, 4) for m in range(1, 5)}
    assert one.scheduler == f"{right.__module__}.right"
    assert one.options["problem"] == {"latency": 1}
    assert sorted(tmp_path.iterdir()) == files


def test_the_digest_of_a_shape_is_that_of_its_schedule() -> None:
    one, other = (certify(scheduler, ranks=2, microbatches=3, workers=1).shapes for scheduler in (right, gpipe))
    same = {shape[:3] for shape in one if shape in other}
    assert same == {shape[:3] for shape in one if right(problem_of(shape)) == gpipe(problem_of(shape))}
    assert 0 < len(same) < len(one)


def gpipe(problem: sv.Problem) -> sv.Schedule:
    return sv.generate("gpipe", problem)


def problem_of(shape: tuple[int, int, int, str | None]) -> sv.Problem:
    return sv.Problem.chain(ranks=shape[0], virtual=shape[1], microbatches=shape[2])


@pytest.mark.parametrize("operations", [1, 3, 6])
def test_the_smallest_failing_shape_is_told_and_nothing_is_left(operations: int, tmp_path: Path) -> None:
    with pytest.raises(SchedulerFault, match="SV103") as caught:
        certify(wrong_from(operations), ranks=4, microbatches=4, path=tmp_path / "none.json")
    least = min(p * m for p in range(2, 5) for m in range(1, 5) if p * m >= operations)
    ranks = min(p for p in range(2, 5) if least % p == 0 and least // p <= 4)
    assert f"ranks = {ranks}\nmicrobatches = {least // ranks}\n" in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_failure_in_another_process_is_told_the_same() -> None:
    told = []
    for workers in (1, 2):
        with pytest.raises(SchedulerFault) as caught:
            certify(loses_the_last_microbatch, ranks=2, microbatches=2, workers=workers)
        told.append(str(caught.value))
    assert told[0] == told[1]


def test_shapes_that_are_not_taken_are_skipped() -> None:
    def even(problem: sv.Problem) -> bool:
        return problem.total_stages == 2 * problem.ranks and problem.microbatches % problem.ranks == 0

    statement = certify(
        lambda problem: sv.generate("interleaved-1f1b", problem), ranks=3, microbatches=4, virtual=2, takes=even
    )
    assert statement.counts == {"checked": 7, "skipped": 17}
    assert all((shape[3] is None) == (shape[1] == 1 or shape[2] % shape[0] != 0) for shape in statement.shapes)


@pytest.mark.parametrize("call", [1, 2, 30, 71])
def test_an_interruption_loses_nothing(call: int, tmp_path: Path) -> None:
    path, whole = tmp_path / "statement.json", tmp_path / "whole.json"
    certify(Interrupted(None), ranks=6, microbatches=6, path=whole, workers=1)
    with pytest.warns(UserWarning, match=f"interrupted: {(call - 1) // 2} of 36 shapes are checked; called again"):
        stated = certify(Interrupted(call), ranks=6, microbatches=6, path=path, workers=1)
    assert not path.exists()
    assert not stated.complete
    assert stated.counts == {"checked": (call - 1) // 2, "skipped": 0}
    assert stated.shapes == load_statement(whole).shapes[: (call - 1) // 2]
    again = Interrupted(None)
    certify(again, ranks=6, microbatches=6, path=path, workers=1)
    assert again.calls == 2 * (36 - (call - 1) // 2)
    assert path.read_bytes() == whole.read_bytes()
    assert sorted(tmp_path.iterdir()) == [path, whole]


KILLED = """
import os
import schedverify as sv
from schedverify.testing import certify

def scheduler(problem, calls=[]):
    calls.append(1)
    if len(calls) == 140:
        os._exit(7)
    return sv.generate("1f1b", problem)

certify(scheduler, ranks=9, microbatches=9, workers=1, path="statement.json")
"""


def test_a_process_that_is_killed_leaves_what_it_saved(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text(KILLED, encoding="utf-8")
    command = [sys.executable, str(script)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 7, done.stderr
    assert len(load_part(tmp_path / "statement.json.part").shapes) == 64
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    assert load_statement(tmp_path / "statement.json").counts == {"checked": 81, "skipped": 0}


ENDED = """
import os, signal, time
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell may have had this process ignore it
import schedverify as sv
from schedverify.testing import certify

def scheduler(problem):
    print("working", os.getpid(), flush=True)
    time.sleep(0.02)  # so that all shapes together take a minute
    return sv.generate("1f1b", problem)

if __name__ == "__main__":
    statement = certify(scheduler, ranks=60, microbatches=60, workers=2)
    print("stated", statement.complete, statement.counts["checked"] > 0, flush=True)
"""


@contextlib.contextmanager
def certifying(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Yield a process that certifies with two others, once both work."""
    script = tmp_path / "script.py"
    script.write_text(ENDED, encoding="utf-8")
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, str(script)], cwd=tmp_path, stdout=pipe, stderr=pipe, text=True, start_new_session=True
    )
    try:
        workers: set[int] = set()
        while len(workers) < 2:
            assert process.stdout is not None
            line = process.stdout.readline()
            if not line:
                pytest.fail(f"it ended: {process.communicate()[1]}")
            workers.update(int(word) for word in line.split() if word.isdigit())
        for _ in range(40):  # shapes are taken in chunks; some are done by now
            process.stdout.readline()
        yield process
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with process:  # closes its pipes and waits for it
            pass


def test_ctrl_c_ends_with_the_statement_so_far_and_without_a_traceback(tmp_path: Path) -> None:
    with certifying(tmp_path) as process:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does: to the workers, too
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0, err
    assert out.splitlines()[-1].endswith("stated False True")  # behind what a worker had begun to print
    assert "Traceback" not in err
    assert "of 3600 shapes are checked" in err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_is_left_when_its_parent_is_killed(number: signal.Signals, tmp_path: Path) -> None:
    with certifying(tmp_path) as process:
        process.send_signal(number)
        process.communicate(timeout=60)  # ends when nobody is left who could write
    assert process.returncode == -number


@pytest.mark.skipif(not hasattr(signal, "pthread_sigmask"), reason="there are no masks of signals")
def test_ctrl_c_is_put_off_though_another_thread_gets_it() -> None:
    """A blocked signal goes to a thread that has it open; Python answers it in the main thread, blocked or not."""
    seen: list[str] = []
    before = signal.signal(signal.SIGINT, lambda *_: seen.append("answered"))
    stop = threading.Event()
    other = threading.Thread(target=stop.wait)
    other.start()
    try:
        with interrupts_later():
            os.kill(os.getpid(), signal.SIGINT)
            other.join(0.2)
            seen.append("ended")
        assert seen == ["ended", "answered"]
    finally:
        stop.set()
        other.join()
        signal.signal(signal.SIGINT, before)


def test_other_checks_do_not_go_on_from_a_part(tmp_path: Path) -> None:
    path = tmp_path / "statement.json"
    with pytest.warns(UserWarning, match="interrupted: 4 of 9 shapes"):
        certify(Interrupted(9), ranks=3, microbatches=3, path=path, workers=1)
    with pytest.raises(InputError, match=r"statement\.json\.part: bounds, options: not those of these checks"):
        certify(Interrupted(None), ranks=3, microbatches=4, latency=2, path=path, workers=1)
    with pytest.raises(InputError, match="scheduler, source: not those"):
        certify(right, ranks=3, microbatches=3, path=path, workers=1)
    with pytest.raises(InputError, match="expected every shape within the bounds"):
        load_statement(f"{path}.part")


def test_any_changed_byte_is_found(tmp_path: Path) -> None:
    path = tmp_path / "statement.json"
    certify(right, ranks=2, microbatches=2, path=path, workers=1)
    content = path.read_bytes().rstrip()
    for place in range(len(content)):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(InputError, match=r"statement\.json"):
            load_statement(path)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"version": 2}, "version: expected 1, found 2"),
        ({"more": 1}, "expected the keys"),
        ({"bounds": {"ranks": 0}}, "bounds: expected"),
        ({"shapes": [[1, 1, 1]]}, "shapes: expected a list"),
        ({"counts": {"checked": 5, "skipped": 0}}, "counts: expected those"),
        ({"options": []}, "options: expected an object"),
        ({"shapes": [], "counts": {"checked": 0, "skipped": 0}}, "expected every shape"),
    ],
)
def test_a_file_that_someone_else_made_is_refused(changes: dict[str, object], told: str, tmp_path: Path) -> None:
    path = tmp_path / "statement.json"
    certify(right, ranks=1, microbatches=2, path=path, workers=1)
    data = json.loads(path.read_text()) | changes
    path.write_text(canonical(data | {"digest": digest(data)}))
    with pytest.raises(InputError, match=told):
        load_statement(path)


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"ranks": 0}, "ranks: expected a whole number from 1 on, found 0"),
        ({"microbatches": 2.5}, "microbatches: expected a whole number"),
        ({"workers": 0}, "workers: expected"),
        ({"forward": 0.5}, "options"),
        ({"properties": ["SV9"]}, "SV9"),
    ],
)
def test_bad_arguments_are_told(keys: dict[str, object], told: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=told):
        certify(right, **({"ranks": 1, "microbatches": 1, "workers": 1} | keys), path=tmp_path / "none.json")
    assert not list(tmp_path.iterdir())


def test_a_place_that_takes_no_statement_is_told_before_the_work(tmp_path: Path) -> None:
    asked: list[object] = []
    with pytest.raises(InputError, match="there is no folder"):
        certify(asked.append, ranks=2, microbatches=2, path=tmp_path / "absent" / "s.json")
    assert asked == []
