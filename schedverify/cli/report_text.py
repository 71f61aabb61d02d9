"""Prints the lines in which values describe themselves, each tone of the text in a colour."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from schedverify.cli.terminal import line_width, print_line, remark
from schedverify.core.presentation import Line, Tone
from schedverify.core.result import Report, headline, measures_lines, properties_table, summary

_STYLES: Final = {
    Tone.PLAIN: "",
    Tone.GOOD: "green",
    Tone.BEST: "bold green",
    Tone.BAD: "bold red",
    Tone.OPEN: "yellow",
    Tone.FAINT: "dim",
    Tone.STRONG: "bold",
    Tone.COMMAND: "bold",
}


def show(report: Report, source: str, *, verbose: bool = False) -> None:
    """Print a report on a schedule read from ``source``; with ``verbose`` a line for each property."""
    width = line_width()
    for text in report.remarks:
        remark(f"note: {text}")
    print_lines(headline(report, source if source != "-" else "standard input"))
    print_lines(properties_table(report, width) if verbose else summary(report))
    if report.violations:
        remark(f"schedverify explain {report.violations[0].code} says what it means")
    print_lines(measures_lines(report, width))


def print_lines(lines: Iterable[Line]) -> None:
    """Print lines to standard output."""
    for line in lines:
        spans = [*line]
        unbroken = any(span.tone is Tone.COMMAND for span in spans)
        print_line(*((span.shown, _STYLES[span.tone]) for span in spans), unbroken=unbroken)
