"""The commands by name, and the way from an error to an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Sequence
from importlib import import_module
from typing import Final

from cyclopts import App, CycloptsError

from schedverify import __version__
from schedverify.cli.options import OK, UNDECIDED, VIOLATED, WRONG_INPUT
from schedverify.core.errors import InfeasibleError, ScheduleError, SchedverifyError, UndecidedError

COMMANDS: Final = {
    "verify": "verify",
    "lint": "lint",
    "optimize": "optimize",
    "generate": "generate",
    "families": "generate",
    "lower": "lower",
    "simulate": "simulate",
    "draw": "draw",
    "convert": "convert",
    "partition": "partition",
    "profile": "profile",
    "run": "run",
    "conform": "conform",
    "explain": "verify",
    "new": "generate",
}
"""By command, the module beside this one in which the function of its name stands."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing that a user can cause ends in a traceback."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    try:
        app = application(_needed(words))
        code = app(words, exit_on_error=False, print_error=False, result_action="return_value")
        sys.stdout.flush()
        return code if isinstance(code, int) else OK
    except CycloptsError as error:
        return _refused(f"{error}\n(schedverify --help lists the commands, schedverify COMMAND --help their options)")
    except SchedverifyError as error:
        return _refused(str(error), _code(error))
    except (MemoryError, RecursionError):
        return _refused("the input is too large or too deeply nested for this machine's memory")
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    except KeyboardInterrupt:
        return _refused("interrupted", 130)


def application(commands: Collection[str] = tuple(COMMANDS)) -> App:
    """Return the command line with some of its commands; the modules of the others are not imported."""
    app = App(
        name="schedverify",
        help="Verified and optimal schedules for pipeline-parallel training.",
        help_epilogue="Exit codes: 0 holds or done, 1 violated or infeasible, 2 wrong usage or input, 3 undecided.",
        version=__version__,
    )
    for command in commands:
        module = import_module(f"schedverify.cli.{COMMANDS[command]}")
        app.command(getattr(module, command))
    return app


def _needed(words: Sequence[str]) -> Collection[str]:
    """Return the commands that these arguments can be about: the first word's, or else all, such as for ``--help``."""
    if words and words[0] == "--version":
        return ()
    return words[:1] if words and words[0] in COMMANDS else COMMANDS


def _code(error: SchedverifyError) -> int:
    if isinstance(error, ScheduleError | InfeasibleError):
        return VIOLATED
    return UNDECIDED if isinstance(error, UndecidedError) else WRONG_INPUT


def _refused(message: str, code: int = WRONG_INPUT) -> int:
    for line in message.splitlines():
        print(f"schedverify: {printable(line)}", file=sys.stderr)
    return code


def printable(text: str) -> str:
    """Return text in which no control character is left that a terminal would obey."""
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)
