"""The commands ``verify`` and ``explain``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from schedverify.cli.app import code_of
from schedverify.cli.options import (
    DisciplineName,
    EagerBytes,
    ProblemOption,
    Verbose,
    file,
    flag,
    given_problem,
)
from schedverify.cli.shapes import PREFIX, ShapeOptions, TorchOptions, making_words, of_class, refuse_beside
from schedverify.cli.terminal import remark

if TYPE_CHECKING:
    from schedverify.core.result import Plan
    from schedverify.core.schedule import Schedule

Codes = Annotated[str | None, Parameter(help="Codes or beginnings of codes, parted by commas: SV1,SV401.")]


def verify(  # noqa: PLR0913 - each is an option of the command line
    schedule: Annotated[str, file("Schedule: text, PyTorch's CSV, a plan, or torch:CLASS; - for standard input.")],
    *,
    problem: ProblemOption = None,
    shape: ShapeOptions | None = None,
    of_torch: TorchOptions | None = None,
    discipline: Annotated[
        DisciplineName | None,
        Parameter(
            help="What blocks what below a schedule with communication: pair, or what the profile's backends do."
        ),
    ] = None,
    eager_bytes: EagerBytes = 0,
    select: Codes = None,
    ignore: Codes = None,
    excerpt: Annotated[bool, flag("Compute operations that the order lacks count as done.")] = False,
    profile: Annotated[
        Literal["torch", "torch-2.15", "torchtitan"] | None,
        Parameter(help="A runtime that the schedule is for: what it needs is selected as well."),
    ] = None,
    output_format: Annotated[
        Literal["text", "json", "github"], Parameter(name="--format", help="What is printed.")
    ] = "text",
    verbose: Verbose = False,
) -> int:
    """Prove that a schedule is right, or show what is wrong with it."""
    from schedverify import formats
    from schedverify.cli import report_text
    from schedverify.core.errors import InputError
    from schedverify.core.result import Verdict
    from schedverify.formats.text_files import source_name
    from schedverify.verifier import cures
    from schedverify.verifier.runtimes import PROFILES
    from schedverify.verifier.verification import verify as judge

    given, lines, made_by = given_problem(problem), tuple[int, ...](), list[str]()
    subject: Schedule | Plan
    if schedule.startswith(PREFIX):
        subject, given = of_class(schedule, given, shape, of_torch, "verify")
        made_by = making_words(schedule, problem, shape, of_torch)
    else:
        refuse_beside("a file", shape, of_torch)
        loaded, lines = formats.load_with_lines(schedule, given)
        subject, given = loaded if isinstance(loaded, tuple) else (loaded, given)
    codes: dict[str, Any] = {"select": _codes(select), "ignore": _codes(ignore) or (), "profile": profile}
    try:
        report = judge(subject, given, discipline=discipline, eager_bytes=eager_bytes, excerpt=excerpt, **codes)
    except InputError as error:  # of the problem that is read off the file, or of no property by that code
        raise error.about(source_name(schedule), ("",)) from None
    judged = {result.code for result in report.properties if result.verdict is not Verdict.NOT_APPLICABLE}
    if profile and discipline is None and "SV304" in judged and (condition := PROFILES[profile].condition):
        remark(condition)
    report = cures.cured_in(report, schedule, problem, made_by)
    if output_format == "json":
        print(formats.dumps(formats.report_data(report)))
    elif output_format == "github":
        print(formats.annotations_at(report, schedule, lines), end="")
    else:
        report_text.show(report, schedule, verbose=verbose)
    return code_of(report.verdict)


def explain(code: Annotated[str, Parameter(help="The code of a property, such as SV201.")]) -> int:
    """Say what a property checks, why it matters, an example, and its formal definition."""
    from schedverify.cli.terminal import print_markdown
    from schedverify.verifier import rule_pages

    print_markdown(rule_pages.property_page(code))
    return 0


def _codes(text: str | None) -> list[str] | None:
    return None if text is None else [code.strip().upper() for code in text.split(",")]
