"""Reports and plans as people read them: verdicts, violations, measures, a plan beside the families of its problem."""

from __future__ import annotations

from rich.table import Table
from rich.text import Text

from schedverify.cli.terminal import out, remark
from schedverify.core.result import Plan, Report, Verdict
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


def comparison_table(plan: Plan) -> Table:
    """Return the measures of a plan beside those of 1F1B and of the best family within the problem's limits."""
    from schedverify.planner.plans import candidates

    found = {candidate.family: candidate for candidate in candidates(plan.problem)}
    valid = [candidate for candidate in found.values() if candidate.report.ok]
    best = min(valid, key=lambda c: c.timeline.measures.value(plan.objective) or 0, default=None)
    shown = [candidate for name, candidate in found.items() if name == "1f1b" or candidate is best]
    grid = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "makespan", "span", "bubble", "span bubble", "peak in flight", "peak memory", ""):
        grid.add_column(heading, justify="left" if not heading or "peak" in heading else "right")
    if plan.measures is not None:
        grid.add_row("this plan", *_figures(plan.measures), "", style="bold")
    for candidate in shown:
        note = (
            "" if candidate.report.ok else "breaks " + ", ".join(sorted({v.code for v in candidate.report.violations}))
        )
        grid.add_row(candidate.family, *_figures(candidate.timeline.measures), note)
    return grid


def _figures(measures: Measures) -> tuple[str, ...]:
    return (
        str(measures.makespan),
        str(measures.span),
        f"{float(measures.bubble_fraction):.4f}",
        f"{float(measures.span_bubble):.4f}",
        by_rank(measures.peak_in_flight),
        by_rank(measures.peak_memory),
    )
