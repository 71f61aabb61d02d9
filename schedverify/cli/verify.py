"""The commands ``verify`` and ``explain``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from schedverify.cli.exit_codes import OK, UNDECIDED, VIOLATED
from schedverify.cli.options import DisciplineOption, EagerBytes, ProblemOption, ScheduleFile

Codes = Annotated[str | None, Parameter(help="Codes or beginnings of codes, parted by commas: SV1,SV401.")]


def verify(  # noqa: PLR0913 - each is an option of the command line
    schedule: ScheduleFile,
    *,
    problem: ProblemOption = None,
    discipline: DisciplineOption = "pair",
    eager_bytes: EagerBytes = 0,
    select: Codes = None,
    ignore: Codes = None,
    excerpt: Annotated[
        bool, Parameter(negative="", help="Compute operations that the order lacks count as done.")
    ] = False,
    profile: Annotated[
        Literal["torch", "torchtitan"] | None,
        Parameter(help="A runtime that the schedule is for: what it needs is selected as well."),
    ] = None,
    output_format: Annotated[
        Literal["text", "json", "github"], Parameter(name="--format", help="What is printed.")
    ] = "text",
) -> int:
    """Prove that a schedule is right, or show what is wrong with it."""
    from schedverify import formats
    from schedverify.cli import report_text
    from schedverify.core.result import Verdict
    from schedverify.verifier import verification

    given = formats.load_problem(problem) if problem is not None else None
    subject = formats.load_judged(schedule, given)
    codes: dict[str, Any] = {"select": _codes(select), "ignore": _codes(ignore) or (), "profile": profile}
    report = verification.verify(
        subject, given, discipline=discipline, eager_bytes=eager_bytes, excerpt=excerpt, **codes
    )
    if output_format == "json":
        print(formats.dumps(formats.report_data(report)))
    elif output_format == "github":
        print(formats.annotations(report, schedule), end="")
    else:
        report_text.show(report, schedule)
    return {Verdict.HOLDS: OK, Verdict.VIOLATED: VIOLATED}.get(report.verdict, UNDECIDED)


def lint(
    files: Annotated[list[Path], Parameter(help="Files in .schedule.toml, CSV with a problem beside it, plans.")],
    *,
    output_format: Annotated[Literal["text", "github"], Parameter(name="--format", help="What is printed.")] = "text",
) -> int:
    """Judge schedules that stand in files with what they are for; the worst verdict is the exit code."""
    from schedverify import linting
    from schedverify.core.result import Verdict

    worst = OK
    for path, (case, report) in zip(files, linting.lint(files), strict=True):
        code = {Verdict.HOLDS: OK, Verdict.VIOLATED: VIOLATED}.get(report.verdict, UNDECIDED)
        worst = code if worst == OK or code == VIOLATED else worst
        if output_format == "github":
            print(case.annotations(report), end="")
        else:
            print(f"{path}: {report.verdict.value}")
            for violation in report.violations:
                print(f"  {violation}")
    return worst


def explain(code: Annotated[str, Parameter(help="The code of a property, such as SV201.")]) -> int:
    """Say what a property checks, why it matters, an example, and its formal definition."""
    from schedverify.cli.console import print_markdown
    from schedverify.verifier import rule_pages

    print_markdown(rule_pages.property_page(code.upper()))
    return 0


def _codes(text: str | None) -> list[str] | None:
    return None if text is None else [code.strip().upper() for code in text.split(",")]
