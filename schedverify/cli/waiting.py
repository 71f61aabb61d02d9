"""Long commands: they show how far they are, and Ctrl-C or SIGTERM ends them with the best answer so far."""

from __future__ import annotations

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from schedverify.optimizer import Progress


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
    from schedverify.cli.terminal import err

    if not wanted or not sys.stderr.isatty():
        yield None
        return
    with err().status("building the model") as status:

        def show(now: Progress) -> None:
            gap = "" if not now.bound or now.value is None else f", gap {(now.value - now.bound) / now.bound:.2%}"
            status.update(f"best {now.value}, bound {now.bound}{gap}, {now.seconds:.0f} s (Ctrl-C keeps the best)")

        yield show
