"""A report as people read it: the verdict, a line for each property, every violation, the measures."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from schedverify.cli.terminal import out, remark
from schedverify.core.result import Report, Verdict
from schedverify.core.timeline import Measures

_STYLE = {Verdict.HOLDS: "green", Verdict.VIOLATED: "bold red", Verdict.UNDECIDED: "yellow"}


def show(report: Report, source: str) -> None:
    """Print a report on a schedule read from ``source``."""
    console = out()
    for text in report.remarks:
        remark(f"note: {text}")
    verdict = Text(report.verdict.value, style=_STYLE.get(report.verdict, "dim"))
    console.print(Text.assemble(source if source != "-" else "standard input", ": ", verdict))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for result in report.properties:
        note = result.reason or result.scope.value * (result.verdict is Verdict.HOLDS)
        style = _STYLE.get(result.verdict, "dim")
        table.add_row(f"  {result.code}", result.name, Text(result.verdict.value, style=style), Text(note, style="dim"))
    console.print(table)
    for violation in report.violations:
        console.print(Text.assemble("  ", (violation.code, "bold red"), f" {violation.message}"))
    if report.violations:
        remark(f"schedverify explain {report.violations[0].code} says what it means")
    if report.communication is not None:
        console.print(f"  {report.communication}")
    if report.measures is not None:
        console.print(measures_table(report.measures))


def measures_table(measures: Measures) -> Table:
    """Return the measures as a table of names and figures."""
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
    for name, figure in rows(measures):
        table.add_row(f"  {name}", figure)
    return table


def rows(measures: Measures) -> list[tuple[str, str]]:
    """Return each measure with its name, as text."""
    overhead = "none" if measures.bubble_overhead is None else f"{float(measures.bubble_overhead):.4f}"
    return [
        ("makespan", str(measures.makespan)),
        ("span", str(measures.span)),
        ("bubble fraction", f"{float(measures.bubble_fraction):.4f}"),
        ("bubble overhead", overhead),
        ("span bubble", f"{float(measures.span_bubble):.4f}"),
        ("peak in flight", by_rank(measures.peak_in_flight)),
        ("peak memory", by_rank(measures.peak_memory)),
    ]


def by_rank(values: tuple[int, ...]) -> str:
    """Return figures by rank in a line; one figure where they are equal."""
    if len(set(values)) == 1:
        return f"{values[0]} on every rank" if len(values) > 1 else str(values[0])
    shown = " ".join(map(str, values[:32]))
    return shown if len(values) <= 32 else f"{shown} ... (most: {max(values)})"
