"""A table of a plan beside the families that suit its problem."""

from __future__ import annotations

from rich.table import Table

from schedverify.cli.report_text import by_rank
from schedverify.core.result import Plan
from schedverify.core.timeline import Measures


def table(plan: Plan) -> Table:
    """Return the measures of a plan beside those of 1F1B and of the best family within the problem's limits."""
    valid = [known for known in plan.families if not known.violated]
    best = min(valid, key=lambda known: known.measures.value(plan.objective) or 0, default=None)
    shown = [known for known in plan.families if known.family == "1f1b" or known is best]
    grid = Table(box=None, padding=(0, 2, 0, 0))
    for heading in ("", "makespan", "span", "bubble", "span bubble", "peak in flight", "peak memory", ""):
        grid.add_column(heading, justify="left" if not heading or "peak" in heading else "right")
    if plan.measures is not None:
        grid.add_row("this plan", *_figures(plan.measures), "", style="bold")
    for known in shown:
        note = "breaks " + ", ".join(known.violated) if known.violated else ""
        grid.add_row(known.family, *_figures(known.measures), note)
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
