"""The command ``draw``."""

from __future__ import annotations

import sys

from schedverify.cli.options import DisciplineOption, EagerBytes, Output, ProblemOption, ScheduleFile, given_problem


def draw(
    schedule: ScheduleFile,
    *,
    problem: ProblemOption = None,
    discipline: DisciplineOption = "pair",
    eager_bytes: EagerBytes = 0,
    output: Output = None,
) -> int:
    """Draw a schedule: as a grid in the terminal, or as .svg, .html or .txt; violations are marked."""
    from schedverify import conversion, drawing, formats
    from schedverify.cli.terminal import out, remark
    from schedverify.verifier import verification

    if output not in (None, "-"):
        target = formats.Destination("--output", output, drawing.picture_suffix)
        formats.check_destinations(target, inputs=(schedule, problem))
    known = given_problem(problem)
    order, given, note = conversion.subject_in(schedule, known)
    if note:
        remark(f"note: {note}")
    report = verification.verify(order, given, discipline=discipline, eager_bytes=eager_bytes)
    picture = drawing.draw(order, given, report=report, discipline=discipline, eager_bytes=eager_bytes)
    if output not in (None, "-"):
        picture.save(str(output))
    elif sys.stdout.isatty():
        out().print(picture)
    else:
        print(picture.text(100))
    return 0
