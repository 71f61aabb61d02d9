"""The command ``lint``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from schedverify.cli.app import code_of
from schedverify.cli.options import Verbose
from schedverify.core.verdict import Verdict


def lint(
    files: Annotated[list[Path], Parameter(help="Files in .schedule.toml, CSV with a problem beside it, plans.")],
    *,
    output_format: Annotated[Literal["text", "github"], Parameter(name="--format", help="What is printed.")] = "text",
    verbose: Verbose = False,
) -> int:
    """Judge schedules that stand in files with what they are for; the worst verdict decides the exit code."""
    from schedverify import linting
    from schedverify.cli.report_text import print_lines
    from schedverify.cli.terminal import line_width
    from schedverify.core.result import headline, properties_table

    verdicts = []
    for path, (case, report) in zip(files, linting.lint(files), strict=True):
        verdicts.append(report.verdict)
        if output_format == "github":
            print(case.annotations(report), end="")
        else:
            print_lines(headline(report, str(path)))
            print_lines(properties_table(report, line_width()) if verbose else ())
    return code_of(Verdict.of_files(verdicts))
