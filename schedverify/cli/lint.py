"""The command ``lint``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from schedverify.cli.app import WRONG_INPUT, code_of
from schedverify.cli.terminal import print_line
from schedverify.core.errors import printable
from schedverify.core.verdict import Verdict

if TYPE_CHECKING:
    from schedverify.core.errors import SchedverifyError
    from schedverify.core.result import Report
    from schedverify.linting import ScheduleCase


def lint(
    files: Annotated[list[Path], Parameter(help="Files in .schedule.toml, CSV with a problem beside it, plans.")],
    *,
    output_format: Annotated[Literal["text", "github"], Parameter(name="--format", help="What is printed.")] = "text",
) -> int:
    """Judge schedules in files with what they are for; the worst one decides the exit code, an unreadable one first."""
    from schedverify import linting

    verdicts, unread = [], False
    for path, case, report, error in linting.lint(files):
        if case is not None and report is not None:
            verdicts.append(report.verdict)
            _tell(path, case, report, output_format)
        elif error is not None:
            unread = True
            _tell_error(path, error, output_format)
    return WRONG_INPUT if unread else code_of(Verdict.of_files(verdicts))


def _tell(path: Path, case: ScheduleCase, report: Report, output_format: str) -> None:
    if output_format == "github":
        print(case.annotations(report), end="")
        return
    print_line(f"{path}: {report.verdict.value}")
    for line in (*report.violations, *report.unsettled):
        print_line(f"  {line}")


def _tell_error(path: Path, error: SchedverifyError, output_format: str) -> None:
    if output_format == "github":
        from schedverify.formats import error_annotations

        print(error_annotations(error, str(path)), end="")
    else:
        for line in str(error).splitlines():
            print(f"schedverify: {printable(line)}", file=sys.stderr)
