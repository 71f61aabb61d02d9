"""The command ``lint``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from schedverify.cli.app import code_of
from schedverify.cli.terminal import print_line
from schedverify.core.verdict import Verdict


def lint(
    files: Annotated[list[Path], Parameter(help="Files in .schedule.toml, CSV with a problem beside it, plans.")],
    *,
    output_format: Annotated[Literal["text", "github"], Parameter(name="--format", help="What is printed.")] = "text",
) -> int:
    """Judge schedules that stand in files with what they are for; the worst verdict decides the exit code."""
    from schedverify import linting

    verdicts = []
    for path, (case, report) in zip(files, linting.lint(files), strict=True):
        verdicts.append(report.verdict)
        if output_format == "github":
            print(case.annotations(report), end="")
        else:
            print_line(f"{path}: {report.verdict.value}")
            for line in (*report.told, *report.unsettled):
                print_line(f"  {line}")
    return code_of(Verdict.of_files(verdicts))
