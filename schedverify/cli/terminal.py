"""Where text goes: standard output for data, standard error for remarks and progress."""

from __future__ import annotations

import os
import re
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import cache
from typing import TYPE_CHECKING, Any, Final

from schedverify.core.errors import printable

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

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


def print_line(*pieces: Piece, unbroken: bool = False) -> None:
    """Print pieces of text as one line, with their styles on a terminal; what it would obey is escaped.

    A line that is too long is broken between words, unless it is to stay ``unbroken``.
    """
    shown = [(printable(piece), "") if isinstance(piece, str) else (printable(piece[0]), piece[1]) for piece in pieces]
    line = "".join(text for text, _ in shown)
    # a line that goes into a pipe as it is: to load rich takes longer than to verify a small schedule
    if not sys.stdout.isatty() and _is_plain([line]) and len(line) <= _PIPE_WIDTH:
        print(line)
        return
    from rich.text import Text

    _print_whole(out(), Text.assemble(*shown), unbroken=unbroken)


def _print_whole(console: Console, text: Text, *, unbroken: bool = False) -> None:
    """Print text broken between words; where one is longer than a line, unbroken: none is cut into two lines."""
    from rich.cells import cell_len

    console.print(text, soft_wrap=unbroken or any(cell_len(word) > console.width for word in text.plain.split()))


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
        from rich.text import Text

        _print_whole(err(), Text(text, "dim"))


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


class ProgressLine:
    """The line of a search on a terminal: how long it has run, its limit, what runs now, and what is known.

    rich asks for it several times a second, so the time goes on where nothing new comes.
    """

    def __init__(self, limit: float) -> None:
        self.limit, self.began = limit, time.monotonic()
        self.now: Progress | None = None

    def show(self, now: Progress) -> None:
        """Take what is new."""
        self.now = now

    def __str__(self) -> str:
        now, line = self.now, f"{time.monotonic() - self.began:.0f} of {self.limit:g} s"
        if now is None:
            return line
        line += f", {now.part}" if now.part else ""
        if now.value is not None:
            gap = f", gap {(now.value - now.bound) / now.bound:.2%}" if now.bound else ""
            line += f": best {now.value}, bound {now.bound}{gap}"
        return f"{line} (Ctrl-C keeps the best)"

    def __rich__(self) -> str:
        return str(self)


@contextmanager
def progress_on_terminal(wanted: bool, limit: float) -> Iterator[Any]:
    """Show on a terminal how a search goes on, which may take ``limit`` seconds."""
    if not wanted or not sys.stderr.isatty():
        yield None
        return
    from rich.live import Live
    from rich.spinner import Spinner

    line = ProgressLine(limit)
    with Live(Spinner("dots", line), console=err(), refresh_per_second=12.5, transient=True) as live:

        def show(now: Progress) -> None:
            is_new = line.now is None or line.now.part != now.part
            line.show(now)
            if is_new:  # a short part would be over before it is drawn
                live.refresh()

        yield show
