"""The command ``lint``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from schedverify.cli.app import WRONG_INPUT, code_of
from schedverify.cli.options import Verbose
from schedverify.core.errors import printable
from schedverify.core.verdict import Verdict

if TYPE_CHECKING:
    from schedverify.core.errors import SchedverifyError


def lint(
    files: Annotated[list[Path], Parameter(help="Files in .schedule.toml, CSV with a problem beside it, plans.")],
    *,
    output_format: Annotated[Literal["text", "github"], Parameter(name="--format", help="What is printed.")] = "text",
    verbose: Verbose = False,
) -> int:
    """Judge schedules in files with what they are for; the worst one decides the exit code, an unreadable one first."""
    from schedverify import linting
    from schedverify.cli.report_text import print_lines
    from schedverify.cli.terminal import line_width
    from schedverify.core.result import headline, properties_table

    verdicts, unread = [], False
    for path, case, report, error in linting.lint(files):
        if case is not None and report is not None:
            verdicts.append(report.verdict)
            if output_format == "github":
                print(case.annotations(report), end="")
            else:
                print_lines(headline(report, str(path)))
                print_lines(properties_table(report, line_width()) if verbose else ())
        elif error is not None:
            unread = True
            _tell_error(path, error, output_format)
    return WRONG_INPUT if unread else code_of(Verdict.of_files(verdicts))


def _tell_error(path: Path, error: SchedverifyError, output_format: str) -> None:
    if output_format == "github":
        from schedverify.formats import error_annotations

        print(error_annotations(error, str(path)), end="")
    else:
        for line in str(error).splitlines():
            print(f"schedverify: {printable(line)}", file=sys.stderr)
