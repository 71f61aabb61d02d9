"""A table of a plan beside the families that suit its problem."""

from __future__ import annotations

from rich.table import Table

from schedverify.cli.report_text import by_rank
from schedverify.core.result import Plan
from schedverify.core.timeline import Measures


def table(plan: Plan) -> Table:
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
