"""The commands by name, and the way from an error to an exit code."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from cyclopts import App, CycloptsError

from schedverify import __version__
from schedverify.cli import conform, draw, generate, optimize, partition, profile, run, verify
from schedverify.cli.exit_codes import OK, UNDECIDED, VIOLATED, WRONG_INPUT
from schedverify.core.errors import InfeasibleError, ScheduleError, SchedverifyError, UndecidedError

app = App(
    name="schedverify",
    help="Verified and optimal schedules for pipeline-parallel training.",
    help_epilogue="Exit codes: 0 holds or done, 1 violated or infeasible, 2 wrong usage or input, 3 undecided.",
    version=__version__,
)
for command in (
    verify.verify,
    verify.lint,
    optimize.optimize,
    generate.generate,
    generate.families,
    generate.lower,
    draw.simulate,
    draw.draw,
    generate.convert,
    partition.partition,
    profile.profile,
    run.run,
    conform.conform,
    verify.explain,
    generate.new,
):
    app.command(command)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; nothing that a user can cause ends in a traceback."""
    try:
        code = app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
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
