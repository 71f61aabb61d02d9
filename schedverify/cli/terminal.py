"""Where text goes and how long commands end: standard output for data, standard error for remarks and progress.

Ctrl-C or SIGTERM ends a search with the best answer so far.
"""

from __future__ import annotations

import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rich.console import Console
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schedverify.optimizer import Progress


@cache
def out() -> Console:
    """Return the console of standard output; a pipe gets wide lines and no colour."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 140
    return Console(highlight=False, width=width, markup=False, emoji=False)


@cache
def err() -> Console:
    """Return the console of standard error."""
    from rich.console import Console

    return Console(stderr=True, highlight=False, markup=False, emoji=False)


def remark(text: str) -> None:
    """Print a remark to standard error."""
    err().print(text, style="dim")


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
