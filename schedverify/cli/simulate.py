"""The command ``simulate``: when every step starts and ends, and all measures."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Final

from schedverify.cli.options import DisciplineOption, EagerBytes, ProblemOption, ScheduleFile, TextOrJson, given_problem

if TYPE_CHECKING:
    from schedverify.core.timeline import Timeline

_MOST_DELAYS: Final = 5


def simulate(
    schedule: ScheduleFile,
    *,
    problem: ProblemOption = None,
    discipline: DisciplineOption = "pair",
    eager_bytes: EagerBytes = 0,
    output_format: TextOrJson = "text",
) -> int:
    """Run a schedule under the problem's costs: when every step starts and ends, and all measures.

    Of a lowered schedule it also says what the steps waited for that transfers held up most.
    """
    from schedverify import conversion, formats
    from schedverify.cli.report_text import print_lines
    from schedverify.cli.terminal import line_width, out, print_line, remark
    from schedverify.core.timeline import timeline_lines
    from schedverify.drawing import draw as drawn
    from schedverify.simulator import engine

    known = given_problem(problem)
    order, given, note = conversion.subject_in(schedule, known)
    result = engine.simulate(order, given, discipline=discipline, eager_bytes=eager_bytes)
    if output_format == "json":
        print(formats.dumps(formats.timeline_data(result)))
        return 0
    if note:
        remark(f"note: {note}")
    out().print(drawn(result))
    print_lines(timeline_lines(result, line_width()))
    for line in _held_up(result):
        print_line(line)
    return 0


def _held_up(result: Timeline) -> Iterator[str]:
    """Print the steps that transfers held up longest, and the transfers that they waited for."""
    from schedverify.core.presentation import counted
    from schedverify.simulator.delay_reasons import delays

    found = [delay for delay in delays(result) if delay.held_up]
    if found:
        ticks = sum(delay.ticks for delay in found)
        total = result.problem.units.time(ticks)
        yield f"  held up by transfers: {counted(len(found), 'step')}, {total} in all; the longest:"
    for delay in sorted(found, key=lambda delay: -delay.ticks)[:_MOST_DELAYS]:
        yield f"  {result.problem.units.time(delay.ticks):>12}  {delay.text}"
