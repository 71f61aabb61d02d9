"""Lines of text with tones: tables as wide as they may be, the same as HTML, and pictures when they are asked for."""

from __future__ import annotations

import subprocess
import sys

import schedverify as sv
from schedverify.core.presentation import Span, Tone, counted, html_of, picture_of, table, text_of


def rows(*lines: str) -> list[list[Span]]:
    return [[Span(cell) for cell in line.split("|")] for line in lines]


def test_columns_are_as_wide_as_their_longest_cell() -> None:
    lines = list(table(rows("a|bbb|c", "dd|e|f"), right=[1]))
    assert ["".join(span.text for span in line) for line in lines] == ["a   bbb  c  ", "dd    e  f  "]
    assert text_of(lines) == "a   bbb  c\ndd    e  f"
    assert text_of(table([])) == ""


def test_a_table_that_is_too_wide_wraps_its_widest_column() -> None:
    lines = table(rows("ab|one two three four|x", "cd|five|y"), width=20)
    assert text_of(lines) == "ab  one two      x\n    three four\ncd  five         y"
    narrow = table(rows("aaaa|bbbb"), width=8)
    assert text_of(narrow) == "aa  bb\naa  bb"
    words = table(rows("  SV101|a-b c dd"), width=17)
    assert text_of(words) == "  SV101  a-b c\n         dd"


def test_html_escapes_the_text_and_colours_the_tones() -> None:
    line = [Span("a<b "), Span("&", Tone.BAD), Span(" ")]
    assert html_of([line]) == (
        '<pre style="line-height:1.3">a&lt;b <span style="color:#c00;font-weight:bold">&amp;</span></pre>'
    )
    assert html_of([[Span("x", Tone.PLAIN)], []]) == '<pre style="line-height:1.3">x\n</pre>'


def test_a_number_has_its_word() -> None:
    assert [counted(number, "violation") for number in (0, 1, 2)] == ["0 violations", "1 violation", "2 violations"]


def test_a_picture_is_loaded_when_it_is_asked_for() -> None:
    schedule = sv.Schedule.parse("0F0 0B0")
    assert picture_of(schedule).startswith("<svg")
    code = (
        "import sys, schedverify as sv; p = sv.Problem.chain(ranks=2, microbatches=2)\n"
        "plan = sv.plan_of(sv.generate('1f1b', p), p); str(plan); repr(plan)\n"
        "print('schedverify.drawing' in sys.modules); plan._repr_html_(); print('schedverify.drawing' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["False", "True"]
