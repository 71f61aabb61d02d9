"""Does anything that a file can hold end in more than a message: inputs that nobody meant, for as long as one likes.

``python benchmarks/fuzz.py`` gives every reader files that are mutated or made of their grammar, and looks at the exit
code, at what is printed, and at the processor's seconds and the memory that it took. What is wrong is printed below the
table with the number of the input, ``--first NUMBER --count 1`` tries it again, and the exit code is 1.
"""

from __future__ import annotations

import faulthandler
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from itertools import count
from pathlib import Path
from types import FrameType
from typing import NamedTuple

from printing import arguments, progress, publish, table, where

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from support.fuzzing import CODES, MAX_SECONDS, attempt, call, complaints

CHUNK, MOST_TOLD = 100, 40
ENOUGH_SECONDS, HUNG_SECONDS = 2 * MAX_SECONDS, 300
"""Processor's seconds after which an input is given up, and seconds after which its process ends."""


class Tried(NamedTuple):
    """What became of an input: its form, the exit code, the processor's seconds, bytes, and what is wrong in lines."""

    form: str
    code: object
    seconds: float
    memory: int
    wrong: list[str]


class TooLongError(BaseException):
    """An input took :data:`ENOUGH_SECONDS`; no ``except Exception`` on the way stops it."""


def tried(numbers: range) -> list[Tried]:
    """Try the inputs of these numbers; those that hang end the process."""
    signal.signal(signal.SIGPROF, _give_up)
    found = []
    for number in numbers:
        faulthandler.dump_traceback_later(HUNG_SECONDS, exit=True)
        signal.setitimer(signal.ITIMER_PROF, ENOUGH_SECONDS)
        one = attempt(number)
        ending = call(one)
        signal.setitimer(signal.ITIMER_PROF, 0)
        wrong = [f"{number}: {' '.join(one.command)}: {each}" for each in complaints(one, ending)]
        found.append(Tried(one.form, ending.code, ending.seconds, ending.memory, wrong))
    faulthandler.cancel_dump_traceback_later()
    return found


def _give_up(_signal: int, _frame: FrameType | None) -> None:
    raise TooLongError


def all_tried(first: int, number: int | None, seconds: float, workers: int) -> Iterator[list[Tried]]:
    """Yield what became of the inputs from a number on, chunk by chunk, until there are enough or the time is over."""
    until, ends = time.monotonic() + seconds, None if number is None else first + number
    chunks = (range(at, min(at + CHUNK, ends or at + CHUNK)) for at in count(first, CHUNK))
    with ProcessPoolExecutor(workers) as pool, progress() as bar:
        task = bar.add_task("inputs", total=number)
        running = {}
        for chunk in chunks:
            if (ends is not None and chunk.start >= ends) or (ends is None and time.monotonic() > until):
                break
            running[pool.submit(tried, chunk)] = chunk
            while len(running) >= 2 * workers:
                done = next(as_completed(running))
                bar.advance(task, len(running.pop(done)))
                yield done.result()
        for done in as_completed(running):
            bar.advance(task, len(running[done]))
            yield done.result()


def main() -> None:
    """Try inputs; print what became of them, and what went wrong."""
    parser = arguments("inputs that nobody meant, and what the commands do with them", seconds=60)
    parser.add_argument("--count", type=int, help="how many inputs, instead of --seconds")
    parser.add_argument("--first", type=int, default=0, help="number of the first input")
    options = parser.parse_args()
    found: list[Tried] = []
    try:
        for chunk in all_tried(options.first, options.count, options.seconds, options.workers):
            found += chunk
    except BrokenProcessPool:
        raise SystemExit(
            f"a process died or hung within the {2 * options.workers} chunks after {len(found)} inputs"
        ) from None
    head = ["form", "inputs", *(f"exit {code}" for code in CODES), "wrong", "most seconds", "most MB"]
    about = f"{where('numpy')}; seeds {options.first} to {options.first + len(found) - 1}."
    publish("fuzz", f"{about}\n\n{table(head, rows(found))}", update=options.update)
    wrong = [line for one in found for line in one.wrong]
    print("\n".join(wrong[:MOST_TOLD]))
    sys.exit(1 if wrong else 0)


def rows(found: list[Tried]) -> Iterator[list[object]]:
    """Yield the lines of the table: each form, and all."""
    for form in [*sorted({one.form for one in found}), "all"]:
        ours = [one for one in found if form in (one.form, "all")]
        codes = Counter(one.code for one in ours)
        most = max(one.seconds for one in ours), max(one.memory for one in ours)
        yield [form, len(ours), *(codes[code] for code in CODES), sum(bool(one.wrong) for one in ours),
               f"{most[0]:.1f}", f"{most[1] / 1e6:.0f}"]  # fmt: skip


if __name__ == "__main__":
    main()
