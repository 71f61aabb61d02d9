"""The commands by name, the exit codes, and the way from an error or a verdict to one of them."""

from __future__ import annotations

import gc
import io
import os
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Final

from schedverify import __version__
from schedverify.core.errors import InfeasibleError, ScheduleError, SchedverifyError, UndecidedError, printable

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
    "profile", "run", "conform", "explain", "new",
)  # fmt: skip
"""The commands; each is a function of its name, in the module of that name or of that in :data:`_MODULES`."""
_MODULES: Final = {"families": "generate", "explain": "verify", "new": "generate"}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing that a user can cause ends in a traceback.

    Parameters
    ----------
    arguments
        The command and its options; by default those of the process, which then is for this command alone.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words == ["--version"]:  # without what parses and prints everything else, which takes much longer to load
        print(__version__)
        return OK
    if arguments is None:
        _escape_what_cannot_be_written()
        gc.set_threshold(50_000)  # modules stay: to look through them for garbage takes a tenth of a short command
    try:
        return _called(words)
    except SchedverifyError as error:
        return _refused(str(error), _code(error))
    except (MemoryError, RecursionError):
        return _refused("the input is too large or too deeply nested for this machine's memory")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return _refused("interrupted", 130)


def _escape_what_cannot_be_written() -> None:
    """Have letters that standard output's encoding lacks written as escapes; they would end in a traceback."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def _called(words: list[str]) -> int:
    """Return the exit code of the command that the words call."""
    from cyclopts import CycloptsError

    # the commands that these words can be about: that of the first word, or else all, such as for --help
    app = application(words[:1] if words and words[0] in COMMANDS else COMMANDS)
    try:
        code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
    except CycloptsError as error:
        return _refused(f"{error}\n(schedverify --help lists the commands, schedverify COMMAND --help their options)")
    sys.stdout.flush()
    return code if isinstance(code, int) else OK


def application(commands: Collection[str] = COMMANDS) -> App:
    """Return the command line with some of its commands; the modules of the others are not imported."""
    from cyclopts import App

    app = App(
        name="schedverify",
        help="Verified and optimal schedules for pipeline-parallel training.",
        help_epilogue="Exit codes: 0 holds or done, 1 violated or infeasible, 2 wrong usage or input, "
        "3 undecided or nothing that applies.",
        help_format="plaintext",
        version=__version__,
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
    for line in message.splitlines():
        print(f"schedverify: {printable(line)}", file=sys.stderr)
    return code
