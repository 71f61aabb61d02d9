"""Reports and plans as people read them: verdicts, violations, measures, a plan beside the families of its problem."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from schedverify.cli.terminal import print_line, print_table, remark
from schedverify.core.result import Report, Verdict
from schedverify.core.timeline import Measures

if TYPE_CHECKING:
    from schedverify.core.result import Plan

_HEADINGS: Final = ("", "makespan", "span", "bubble", "span bubble", "peak in flight", "peak memory", "")
_STYLE: Final = {Verdict.HOLDS: "green", Verdict.VIOLATED: "bold red", Verdict.UNDECIDED: "yellow"}


def show(report: Report, source: str) -> None:
    """Print a report on a schedule read from ``source``."""
    for text in report.remarks:
        remark(f"note: {text}")
    print_line(source if source != "-" else "standard input", ": ", _styled(report.verdict))
    print_table(
        [
            (
                f"  {result.code}",
                result.name,
                _styled(result.verdict),
                (result.reason or result.scope.value * (result.verdict is Verdict.HOLDS), "dim"),
            )
            for result in report.properties
        ]
    )
    for violation in report.violations:
        print_line("  ", (violation.code, "bold red"), f" {violation.message}")
    if report.violations:
        remark(f"schedverify explain {report.violations[0].code} says what it means")
    if report.communication is not None:
        print_line(f"  {report.communication}")
    if report.measures is not None:
        print_measures(report.measures)


def _styled(verdict: Verdict) -> tuple[str, str]:
    return verdict.value, _STYLE.get(verdict, "dim")


def print_measures(measures: Measures) -> None:
    """Print measures as a table of names and figures."""
    print_table([(f"  {name}", figure) for name, figure in rows(measures)])


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


def print_comparison(plan: Plan) -> None:
    """Print the measures of a plan beside those of 1F1B and of the best family within the problem's limits."""
    valid = [known for known in plan.families if not known.violated]
    best = min(valid, key=lambda known: known.measures.value(plan.objective) or 0, default=None)
    table = [("this plan", *_figures(plan.measures), "")] if plan.measures is not None else []
    for known in plan.families:
        if known.family == "1f1b" or known is best:
            note = "breaks " + ", ".join(known.violated) if known.violated else ""
            table.append((known.family, *_figures(known.measures), note))
    print_table(table, _HEADINGS, right=range(1, 5), bold=0 if plan.measures is not None else -1)


def _figures(measures: Measures) -> tuple[str, ...]:
    return (
        str(measures.makespan),
        str(measures.span),
        f"{float(measures.bubble_fraction):.4f}",
        f"{float(measures.span_bubble):.4f}",
        by_rank(measures.peak_in_flight),
        by_rank(measures.peak_memory),
    )
