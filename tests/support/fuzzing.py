"""Inputs that nobody meant: files of every form, mutated or made of their grammar, and what a command may do with them.

An :class:`Attempt` is a command and the files that it is to read, one of them bad. It is called in this process;
:func:`complaints` says what is wrong with the way in which it ended.
"""

from __future__ import annotations

import io
import json
import os
import random
import re
import time
import unicodedata
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from schedverify.cli import main
from schedverify.core.errors import printable
from support import fuzzed_texts
from support.fuzzed_texts import Form

CODES = (0, 1, 2, 3)
"""The documented exit codes of a command that nobody interrupts."""
MAX_SECONDS, MAX_BYTES = 10, 500_000_000
_WHOLE = re.compile(
    "a binary file|empty|nothing says which problem|no UTF-8|there are commas in it|no rank in it"
    "|a schedule has no form|an? [a-z ]+, where |the plan is of another problem"
)
"""How messages about the whole of a file begin; all others name a key or a place in it."""
_FRAME = re.compile(r"^(?:schedverify: |::error file=([^,]*)[^:]*:: ?)")


class Attempt(NamedTuple):
    """A command, the name of the form that is bad in it, and its files by their names."""

    command: tuple[str, ...]
    form: str
    files: dict[str, bytes]
    bad: str
    """The name of the file that is bad."""


class Ending(NamedTuple):
    """How a command ended: its exit code, what it printed, the processor's seconds, and bytes beyond those before."""

    code: object
    out: str
    err: str
    seconds: float
    memory: int


def attempt(number: int, name: str | None = None) -> Attempt:
    """Return a command with a bad file, of a form by its name or of any; the same for the same number."""
    rng, forms = random.Random(number), fuzzed_texts.forms()
    drawn = rng.choices(list(forms.values()), [each.weight for each in forms.values()])[0]
    form = drawn if name is None else forms[name]
    suffix, text = rng.choice(form.seeds)
    bad = f"bad{suffix}"
    command = tuple(word.replace("BAD", bad) for word in rng.choice(form.commands).split())
    others = {other: text.encode() for other, text in fuzzed_texts.files().items() if other in command}
    return Attempt(command, form.name, others | {bad: _bad(rng, form, text)}, bad)


def _bad(rng: random.Random, form: Form, text: str) -> bytes:
    change: Callable[[random.Random, Form, str], str] = rng.choices(
        (
            fuzzed_texts.with_other_numbers, fuzzed_texts.with_other_values, fuzzed_texts.with_other_words,
            fuzzed_texts.with_other_lines, fuzzed_texts.made_up,
        ),
        (4, 3, 3, 2, 1),
    )[0]  # fmt: skip
    made = change(rng, form, text)
    raw = made.encode("utf-8", "surrogatepass")
    return fuzzed_texts.with_other_bytes(rng, raw) if rng.random() < 0.1 else raw


def call(tried: Attempt) -> Ending:
    """Call the command in a folder that holds its files and nothing else."""
    with TemporaryDirectory() as folder:
        return _called(tried, Path(folder))


def _called(tried: Attempt, folder: Path) -> Ending:
    for name, content in tried.files.items():
        (folder / name).write_bytes(content)
    before, out, err = Path.cwd(), io.StringIO(), io.StringIO()
    os.chdir(folder)
    resident, started = _resident(), time.process_time()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            code: object = main(list(tried.command))
    except BaseException as error:  # whatever comes out of it is what is looked for
        code = f"{type(error).__name__}: {error}"
    finally:
        os.chdir(before)
    return Ending(code, out.getvalue(), err.getvalue(), time.process_time() - started, _highest() - resident)


def complaints(tried: Attempt, ending: Ending, *, costs: bool = True) -> list[str]:
    """Return what is wrong with the end of a command.

    Parameters
    ----------
    costs
        Whether to look at seconds and memory, too.
    """
    wrong = []
    if ending.code not in CODES:
        wrong.append(f"ended with {str(ending.code)[:200]}")
    if "Traceback" in ending.err or "please report" in ending.err:
        wrong.append("shows its inside")
    if any(_is_obeyed(sign) for sign in ending.out + ending.err):
        wrong.append("prints what a terminal obeys")
    if ending.code == 2:
        wrong += _unclear(tried, ending.out if "github" in tried.command and "::error" in ending.out else ending.err)
    if "json" in tried.command and ending.code in (0, 1, 3) and ending.out:
        wrong += _no_json(ending.out)
    if costs and len(tried.files[tried.bad]) <= 100_000:
        wrong += [f"took {ending.seconds:.1f} s"] * (ending.seconds > MAX_SECONDS)
        wrong += [f"took {ending.memory / 1e6:.0f} MB"] * (ending.memory > MAX_BYTES)
    return wrong


def _unclear(tried: Attempt, message: str) -> list[str]:
    """Whether a refusal lacks the file, or a key or place within it."""
    told = [_FRAME.sub(lambda found: f"{found[1]}: " if found[1] else "", line) for line in message.splitlines()]
    named = [line for line in told if any(line.startswith(f"{name}: ") for name in tried.command)]
    if not named:
        return ["does not name the file"]
    places = (line.split(": ", 1)[1] for line in named)
    return [] if any(": " in place or _WHOLE.match(place) for place in places) else ["does not name a key"]


def _no_json(text: str) -> list[str]:
    try:
        data = json.loads(text)
    except ValueError:
        return ["prints something beside its JSON"]
    return [] if isinstance(data, dict | list) else ["prints JSON that is no object"]


@cache
def _is_obeyed(sign: str) -> bool:
    return sign != "\n" and (unicodedata.category(sign) in ("Cc", "Cf", "Cs", "Zl", "Zp") or printable(sign) != sign)


def _resident() -> int:
    """Return the bytes that this process holds, and begin to note their highest anew."""
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    return _status("VmRSS")


def _highest() -> int:
    return _status("VmHWM")


def _status(name: str) -> int:
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(text.partition(f"{name}:")[2].split()[0]) * 1024
