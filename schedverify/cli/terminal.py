"""Where text goes and how long commands end: standard output for data, standard error for remarks and progress.

Ctrl-C or SIGTERM ends a search with the best answer so far.
"""

from __future__ import annotations

import os
import re
import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from schedverify.core.errors import printable

if TYPE_CHECKING:
    from rich.console import Console

    from schedverify.optimizer import Progress

Piece = str | tuple[str, str]
"""A piece of a line: text, or a pair of text and a style that rich knows."""
_PIPE_WIDTH: Final = 140
_FORCING: Final = ("FORCE_COLOR", "TTY_COMPATIBLE")
"""Environment variables by which rich takes a pipe for a terminal."""


@cache
def out() -> Console:
    """Return the console of standard output; a pipe gets wide lines and no colour."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else _PIPE_WIDTH
    return Console(highlight=False, width=width, markup=False, emoji=False)


@cache
def err() -> Console:
    """Return the console of standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def print_line(*pieces: Piece) -> None:
    """Print pieces of text as one line, with their styles on a terminal; what it would obey is escaped."""
    shown = [(printable(piece), "") if isinstance(piece, str) else (printable(piece[0]), piece[1]) for piece in pieces]
    line = "".join(text for text, _ in shown)
    # a line that goes into a pipe as it is: to load rich takes longer than to verify a small schedule
    if not sys.stdout.isatty() and _is_plain([line]) and len(line) <= _PIPE_WIDTH:
        print(line)
        return
    from rich.text import Text

    out().print(Text.assemble(*shown))


def line_width() -> int:
    """Return how many letters a line on standard output may have."""
    return out().width if sys.stdout.isatty() or _is_coloured() else _PIPE_WIDTH


def _is_plain(lines: Sequence[str]) -> bool:
    """Whether every letter takes one column of its own, and no colours are wanted where there is no terminal."""
    return not _is_coloured() and all(line.isascii() and line.isprintable() for line in lines)


def _is_coloured() -> bool:
    """Whether colours are wanted where there is no terminal."""
    return any(map(os.environ.get, _FORCING))


def remark(text: str) -> None:
    """Print a remark to standard error, with what a terminal would obey escaped; where it takes no more, none."""
    with suppress(OSError):
        _remark(printable(text))


def _remark(text: str) -> None:
    columns = os.environ.get("COLUMNS", "")
    lines = _wrapped(text, int(columns) if columns.isdecimal() else 80)
    if lines and not any(map(os.isatty, range(3))) and _is_plain(lines):
        print("\n".join(lines), file=sys.stderr)
    else:
        err().print(text, style="dim")


def _wrapped(text: str, width: int) -> list[str]:
    """Return text broken between words as rich does it into a pipe; nothing where a word is longer than a line."""
    lines = [""]
    for word in re.findall(r"\s*\S+\s*", text):
        if len(word.rstrip()) > width:
            return []
        if len(lines[-1] + word.rstrip()) > width:
            lines.append("")
        lines[-1] += word
    return [line[:width] for line in lines]


def print_markdown(text: str) -> None:
    """Print Markdown: as it is into a pipe, laid out on a terminal."""
    if not sys.stdout.isatty():
        print(text, end="")
        return
    from rich.markdown import Markdown

    out().print(Markdown(text))


@contextmanager
def interruptible() -> Iterator[threading.Event]:
    """Turn Ctrl-C and SIGTERM into a wish to stop: the best so far is kept. A second Ctrl-C ends at once."""
    stop = threading.Event()

    def on_signal(number: int, _frame: Any) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    before = {number: signal.signal(number, on_signal) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def progress_on_terminal(wanted: bool) -> Iterator[Any]:
    """Show best, bound and gap on a terminal while the search runs."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    with err().status("building the model") as status:

        def show(now: Progress) -> None:
            gap = "" if not now.bound or now.value is None else f", gap {(now.value - now.bound) / now.bound:.2%}"
            status.update(f"best {now.value}, bound {now.bound}{gap}, {now.seconds:.0f} s (Ctrl-C keeps the best)")

        yield show
