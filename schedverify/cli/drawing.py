"""The commands ``simulate`` and ``draw``."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from schedverify.cli.options import Output, ProblemOption, ScheduleFile, TextOrJson

if TYPE_CHECKING:
    from schedverify.problem import Problem


def simulate(schedule: ScheduleFile, *, problem: ProblemOption = None, output_format: TextOrJson = "text") -> int:
    """Run a schedule under the problem's costs: when every step starts and ends, and all measures."""
    from schedverify import conversion, formats, timeline
    from schedverify.cli.console import out, remark
    from schedverify.cli.report_text import measures_table
    from schedverify.drawing import draw as drawn

    order, given, note = conversion.subject(formats.load_judged(schedule), _loaded(problem))
    result = timeline.simulate(order, given)
    if output_format == "json":
        print(formats.dumps(formats.timeline_data(result)))
        return 0
    if note:
        remark(f"note: {note}")
    out().print(drawn(order, given))
    out().print(measures_table(result.measures))
    return 0


def draw(schedule: ScheduleFile, *, problem: ProblemOption = None, output: Output = None) -> int:
    """Draw a schedule: as a grid in the terminal, or as .svg, .html or .txt; violations are marked."""
    from schedverify import conversion, formats, verifier
    from schedverify.cli.console import out, remark
    from schedverify.drawing import draw as drawn

    order, given, note = conversion.subject(formats.load_judged(schedule), _loaded(problem))
    if note:
        remark(f"note: {note}")
    picture = drawn(order, given, report=verifier.verify(order, given))
    if output not in (None, "-"):
        picture.save(str(output))
    elif sys.stdout.isatty():
        out().print(picture)
    else:
        print(picture.text(100))
    return 0


def _loaded(problem: str | None) -> Problem | None:
    from schedverify import formats

    return formats.load_problem(problem) if problem is not None else None
