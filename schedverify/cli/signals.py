"""What Ctrl-C and SIGTERM do to a command, from its first line to its last; only the command line answers signals.

While modules are loaded there is nothing to lose: the process ends at once, without a word of Python's. A command that
searches goes on so until its search begins, and from then on a signal is a wish to stop, with the best so far as the
answer. In every other command a signal is a KeyboardInterrupt, so that files and processes are cleaned up.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

TYPE_CHECKING = False  # without typing, which takes longer to load than all else here
if TYPE_CHECKING:
    import threading
    from types import FrameType

SEARCHES = ("optimize", "partition")
"""The commands whose best answer counts when they are interrupted."""
_NUMBERS = (signal.SIGINT, signal.SIGTERM)
_NO_ANSWER = 3
"""The exit code of a search that is interrupted before it has an answer."""
_raised: list[int] = []


class Terminated(KeyboardInterrupt):
    """SIGTERM, which ends a command in the same way as Ctrl-C does."""


def exit_code(words: Sequence[str], number: int) -> int:
    """Return the exit code of the command that these words call where a signal ends it without an answer."""
    return _NO_ANSWER if words[:1] and words[0] in SEARCHES else 128 + number


def number_of(error: BaseException) -> int:
    """Return the signal behind an exception."""
    if isinstance(error, KeyboardInterrupt):
        return signal.SIGTERM if isinstance(error, Terminated) else signal.SIGINT
    return _raised[-1]


def end_at_once(words: Sequence[str]) -> None:
    """From now on, end the process at a signal, with the exit code of the command that the words call."""

    def end(number: int, _frame: FrameType | None) -> None:
        os.write(2, b"schedverify: interrupted\n")
        os._exit(exit_code(words, number))

    _answer(end)


def end_with(code: int) -> None:
    """From now on, end the process at a signal with this exit code: everything is done and said."""
    _answer(lambda _number, _frame: os._exit(code))


def end_beside_threads(code: int) -> None:
    """End the process here where a solver that was told to stop still runs: Python cannot end beside its thread."""
    threading = sys.modules.get("threading")
    if threading is not None and any(thread.name.startswith("schedverify-") for thread in threading.enumerate()):
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def interrupt(words: Sequence[str]) -> None:
    """From now on, raise KeyboardInterrupt at a signal, so that what is held is let go of.

    Where Python can only tell of an exception and go on, such as in the callback of a library, the process ends.
    """

    def raise_it(number: int, _frame: FrameType | None) -> None:
        _raised.append(number)
        raise KeyboardInterrupt if number == signal.SIGINT else Terminated

    def end_or_tell(unraisable: sys.UnraisableHookArgs) -> None:
        if isinstance(unraisable.exc_value, KeyboardInterrupt):
            os._exit(exit_code(words, number_of(unraisable.exc_value)))
        sys.__unraisablehook__(unraisable)

    sys.unraisablehook = end_or_tell
    _answer(raise_it)


def was_raised() -> bool:
    """Whether a signal was raised: what a library made of it is no fault of ours."""
    return bool(_raised)


def stop_at_signal() -> threading.Event:
    """Return an event that a signal sets from now on, as the wish to stop; a second Ctrl-C is a KeyboardInterrupt."""
    import threading

    stop = threading.Event()

    def wish(number: int, _frame: FrameType | None) -> None:
        if stop.is_set() and number == signal.SIGINT:
            raise KeyboardInterrupt
        stop.set()

    _answer(wish)
    return stop


@contextmanager
def restored() -> Iterator[None]:
    """On leaving, answer signals as before."""
    before = {number: signal.getsignal(number) for number in _NUMBERS}
    try:
        yield
    finally:
        if _is_main_thread():
            for number, handler in before.items():
                signal.signal(number, handler)


def _answer(handler: Callable[[int, FrameType | None], None]) -> None:
    if _is_main_thread():
        for number in _NUMBERS:
            signal.signal(number, handler)


def _is_main_thread() -> bool:
    threading = sys.modules.get("threading")
    return threading is None or threading.current_thread() is threading.main_thread()
