"""The commands by name, the exit codes, and the way from an error or a verdict to one of them."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Collection, Sequence
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Final

from schedverify import __version__
from schedverify.cli import signals
from schedverify.core.errors import (
    TOO_LARGE,
    InfeasibleError,
    InputError,
    ScheduleError,
    SchedverifyError,
    UndecidedError,
    printable,
)

if TYPE_CHECKING:
    from cyclopts import App

    from schedverify.core.verdict import Verdict

OK: Final = 0
"""The exit code if every selected property holds, or the command did its work."""
VIOLATED: Final = 1
"""The exit code if a property is violated, or a problem is proved infeasible."""
WRONG_INPUT: Final = 2
"""The exit code of wrong usage or unreadable input."""
UNDECIDED: Final = 3
"""The exit code if a selected property, or the whole question, stayed open, or nothing that was selected applies."""

COMMANDS: Final = (
    "verify", "lint", "optimize", "generate", "families", "lower", "simulate", "draw", "convert", "partition",
    "profile", "run", "conform", "trace", "explain", "new",
)  # fmt: skip
"""The commands; each is a function of its name, in the module of that name or of that in :data:`_MODULES`."""
_MODULES: Final = {"families": "generate", "explain": "verify", "new": "generate"}

_EPILOGUE: Final = """\
schedverify --install-completion writes what completes commands by the tab key in bash, zsh or fish and says where; \
--show-completion prints it.

Exit codes: 0 holds or done, 1 violated or infeasible, 2 wrong usage or input, 3 undecided or nothing that applies."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing that a user can cause ends in a traceback.

    Parameters
    ----------
    arguments
        The command and its options; by default those of the process, which then is for this command alone.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    _replace_closed_streams()
    if arguments is None:
        _escape_what_cannot_be_written()
        gc.set_threshold(50_000)  # modules stay: to look through them for garbage takes a tenth of a short command
    try:
        with signals.restored():
            return _called(words, alone=arguments is None)
    except SchedverifyError as error:
        return _refused(str(error), _code(error))
    except (MemoryError, RecursionError):
        return _refused(TOO_LARGE)
    except (KeyboardInterrupt, SystemExit, Exception) as error:
        if isinstance(error, KeyboardInterrupt) or signals.was_raised():
            return _refused("interrupted", signals.exit_code(words, signals.number_of(error)))
        hung_up = isinstance(error, SystemExit) and isinstance(error.__context__, BrokenPipeError)
        ended = error.__context__ if hung_up else error  # rich ends the process where a reader hangs up
        if not isinstance(ended, OSError):
            raise
        return _unprinted(ended)


def _replace_closed_streams() -> None:
    """Open nothing in the place of standard streams that were closed for this process, which Python has as None."""
    for name, mode in (("stdin", "r"), ("stdout", "w"), ("stderr", "w")):
        if getattr(sys, name) is None:
            setattr(sys, name, Path(os.devnull).open(mode, encoding="utf-8"))  # noqa: SIM115


def _unprinted(error: OSError) -> int:
    """Return the exit code where standard output took no more: none of ours where its reader hung up."""
    with suppress(OSError, ValueError, AttributeError):  # what is still in its buffer would fail again at the end
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if isinstance(error, BrokenPipeError):
        return OK
    return _refused(f"{error.filename or 'standard output'}: {error.strerror or error}")


def _escape_what_cannot_be_written() -> None:
    """Have letters that standard output's encoding lacks written as escapes; they would end in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _called(words: list[str], *, alone: bool) -> int:
    """Return the exit code of the command that the words call; ``alone`` in a process of its own."""
    if words in (["--version"], ["-V"]):  # without what parses and prints the rest, which takes much longer to load
        print(__version__, flush=True)
        return OK
    from cyclopts import CycloptsError

    if words and words[0] in ("--show-completion", "--install-completion"):
        from schedverify.cli.completion import complete

        return complete(application(), words)
    if words[:1] == ["help"]:
        words = [*words[1:2], "--help"]

    # the commands that these words can be about: that of the first word, or else all, such as for --help
    app = application(words[:1] if words and words[0] in COMMANDS else COMMANDS)
    if alone and words[:1] and words[0] not in signals.SEARCHES:
        signals.interrupt(words)
    try:
        code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        from schedverify.cli.usage import complaint

        return _refused(complaint(error, app, words, COMMANDS))
    except InputError as error:
        raise _of_options(error, app, words) from None
    sys.stdout.flush()
    return code if isinstance(code, int) else OK


def _of_options(error: InputError, app: App, words: list[str]) -> InputError:
    """Return an error with the names that arguments have on the command line; one that names its file stays."""
    from schedverify.cli.usage import option_names

    if error.source or words[0] not in COMMANDS:
        return error
    names = option_names(app, words[0])
    faults = [fault._replace(key=names.get(fault.key, fault.key)) for fault in error.faults]
    return type(error)(faults)


def application(commands: Collection[str] = COMMANDS) -> App:
    """Return the command line with some of its commands; the modules of the others are not imported."""
    from cyclopts import App

    app = App(
        name="schedverify",
        help="Verified and optimal schedules for pipeline-parallel training.",
        help_epilogue=_EPILOGUE,
        help_format="plaintext",
        version=__version__,
        suppress_keyboard_interrupt=False,
    )
    for command in commands:
        module = import_module(f"schedverify.cli.{_MODULES.get(command, command)}")
        app.command(getattr(module, command))
    return app


def code_of(verdict: Verdict) -> int:
    """Return the exit code of the verdict on a whole."""
    return {"holds": OK, "violated": VIOLATED}.get(verdict, UNDECIDED)


def _code(error: SchedverifyError) -> int:
    if isinstance(error, ScheduleError | InfeasibleError):
        return VIOLATED
    return UNDECIDED if isinstance(error, UndecidedError) else WRONG_INPUT


def _refused(message: str, code: int = WRONG_INPUT) -> int:
    with suppress(OSError):  # where standard error takes no more, the code still says it
        for line in message.splitlines():
            print(f"schedverify: {printable(line)}", file=sys.stderr)
    return code
