"""The command ``lint``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from schedverify.cli.app import OK, VIOLATED, code_of
from schedverify.cli.terminal import print_line


def lint(
    files: Annotated[list[Path], Parameter(help="Files in .schedule.toml, CSV with a problem beside it, plans.")],
    *,
    output_format: Annotated[Literal["text", "github"], Parameter(name="--format", help="What is printed.")] = "text",
) -> int:
    """Judge schedules that stand in files with what they are for; the worst verdict is the exit code."""
    from schedverify import linting

    worst = OK
    for path, (case, report) in zip(files, linting.lint(files), strict=True):
        code = code_of(report)
        worst = code if worst == OK or code == VIOLATED else worst
        if output_format == "github":
            print(case.annotations(report), end="")
        else:
            print_line(f"{path}: {report.verdict.value}")
            for violation in report.violations:
                print_line(f"  {violation}")
    return worst
