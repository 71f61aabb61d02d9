"""What a report says of itself: the command line's table, one line, and what brackets find."""

from __future__ import annotations

import dataclasses
import re

import pytest

import schedverify as sv
from schedverify.cli import main
from schedverify.core.result import ranges
from schedverify.core.verdict import Verdict
from verifier.test_broken import NAMES, example, report_of

PROBLEM = sv.Problem.chain(ranks=2, microbatches=2, forward=1, backward=2)
SCHEDULE = sv.generate("1f1b", PROBLEM)
BROKEN = sv.Schedule.parse("0F0 0B0 0F1 0B1\n1F1 1F0 1B0 1B1")
MEASURES = """\
  makespan         9 ticks
  span             9 ticks
  bubble fraction  0.3333
  bubble overhead  0.5000
  span bubble      0.3333
  peak in flight   2 1
  peak memory      2 1 units"""


def lines(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.rstrip("\n").split("\n"))


class TestReport:
    def test_it_prints_as_the_command_does(self, tmp_path, capsys) -> None:
        for schedule in (SCHEDULE, BROKEN, sv.lower(SCHEDULE, PROBLEM)):
            sv.save(schedule, tmp_path / "s.txt")
            sv.save(PROBLEM, tmp_path / "p.toml")
            main(["verify", str(tmp_path / "s.txt"), "-p", str(tmp_path / "p.toml")])
            printed = lines(capsys.readouterr().out).removeprefix(f"{tmp_path / 's.txt'}: ")
            assert str(sv.verify(schedule, PROBLEM)) == printed

    def test_its_text(self) -> None:
        report = sv.verify(SCHEDULE, PROBLEM, select=["SV201", "SV304"])
        assert str(report) == f"holds\n  holds for every duration: SV201; not applicable: 1 of 2\n{MEASURES}"
        read_off = str(sv.verify(SCHEDULE, select=["SV201"])).splitlines()
        assert read_off[:2] == ["holds", "  holds as read from the file: SV201"]
        assert read_off[2].startswith("note: no problem is given: ranks, placement")

    def test_what_is_wrong_comes_first_with_a_picture(self) -> None:
        text = str(sv.verify(BROKEN, PROBLEM))
        assert text == (
            "violated: SV201\n"
            "  SV201 rank 0 waits at position 1 (0B0) for 1B0; rank 1 waits at position 0 (1F1) for 0F1\n"
            "    rank 0  0F0 0B0 0F1 0B1\n"
            "                ^^^ waits for 1B0\n"
            "    rank 1  1F1 1F0 1B0 1B1\n"
            "            ^^^ waits for 0F1\n"
            "  holds for every duration: SV101 to SV104; not applicable: 15 of 20"
        )

    def test_what_is_open_comes_before_what_holds(self) -> None:
        report = sv.verify(BROKEN, PROBLEM, select=["SV1", "SV2", "SV3"])
        left_open = dataclasses.replace(report["SV202"], verdict=Verdict.UNDECIDED, reason="nobody knows", remedy="")
        properties = tuple(left_open if each.code == "SV202" else each for each in report.properties)
        text = str(sv.Report(properties)).splitlines()
        assert text[0] == "violated: SV201"
        assert text[-2:] == [
            "  SV202 undecided: nobody knows", "  holds for every duration: SV101 to SV104; not applicable: 6 of 12",
        ]  # fmt: skip
        only = sv.Report(tuple(each for each in properties if each.code != "SV201"))
        assert str(only).splitlines()[:2] == ["undecided: SV202", "  SV202 undecided: nobody knows"]

    def test_codes_in_a_row_are_a_range(self) -> None:
        assert ranges(["SV101", "SV102"]) == "SV101, SV102"
        assert ranges(["SV101", "SV102", "SV103", "SV201", "SV301"]) == "SV101 to SV103, SV201, SV301"
        assert ranges([]) == ""

    def test_of_every_schedule_of_specs_a_short_text_names_every_verdict(self) -> None:
        """Each code stands where its verdict does: in the headline, in a line of its own, in what holds, in a count."""
        for name in NAMES:
            report = report_of(example(name))
            text = str(report)
            first, rest = text.split("\n", 1)
            of = {verdict: [p.code for p in report.properties if p.verdict is verdict] for verdict in Verdict}
            assert first == f"{report.verdict.value}: {', '.join(of[report.verdict])}"
            for violation in report.violations:
                assert f"  {violation}" in rest
            assert all(f"  {code} undecided: " in rest for code in of[Verdict.UNDECIDED])
            (line,) = [line for line in rest.splitlines() if line.startswith(("  holds ", "  not applicable: "))]
            spans = re.findall(r"SV([0-9]+)(?: to SV([0-9]+))?", line)
            told = {code for low, high in spans for code in range(int(low), int(high or low) + 1)}
            assert told == {int(code[2:]) for code in of[Verdict.HOLDS]}
            count = re.search(r"not applicable: ([0-9]+) of ([0-9]+)", line)
            assert (int(count[1]) if count else 0) == len(of[Verdict.NOT_APPLICABLE])
            assert len(text) < 1500, name

    def test_it_is_one_line_as_a_value(self) -> None:
        assert repr(sv.verify(SCHEDULE, PROBLEM, select=["SV1", "SV201"])) == "<Report: holds, 5 properties>"
        broken = sv.verify(BROKEN, PROBLEM, select=["SV2"])
        assert repr(broken) == "<Report: violated, 1 violation of SV201>"
        result = broken["SV201"]
        twice = dataclasses.replace(result, code="SV999", violations=result.violations * 2)
        assert repr(sv.Report((result, twice))) == "<Report: violated, 3 violations of SV201, SV999>"
        open_result = dataclasses.replace(result, verdict=Verdict.UNDECIDED, violations=())
        assert repr(sv.Report((open_result,))) == "<Report: undecided, SV201>"

    def test_a_selection_of_which_nothing_applies_is_not_applicable(self) -> None:
        report = sv.verify(SCHEDULE, PROBLEM, select=["SV304", "SV402"])
        assert report.verdict is Verdict.NOT_APPLICABLE
        assert not report.ok
        assert report.unsettled == (
            "SV304 not applicable: no send and no receive stands in the schedule (schedverify lower adds them)",
            "SV402 not applicable: the problem limits no memory (memory.capacity does)",
        )
        assert str(report).splitlines()[:3] == [
            "not applicable: SV304, SV402",
            "  SV304: no send and no receive stands in the schedule (schedverify lower adds them)",
            "  SV402: the problem limits no memory (memory.capacity does)",
        ]
        assert repr(report) == "<Report: not applicable, SV304, SV402>"
        report.raise_for_violations()  # which are none

    def test_an_empty_selection_is_not_applicable(self) -> None:
        for report in (sv.Report(()), sv.verify(SCHEDULE, PROBLEM, select=[])):
            assert report.verdict is Verdict.NOT_APPLICABLE
            assert not report.ok
            assert str(report).splitlines()[:2] == ["not applicable", "  no property was selected"]

    def test_what_is_undecided_is_told_alone_where_something_applies(self) -> None:
        report = sv.verify(SCHEDULE, PROBLEM, select=["SV201", "SV304", "SV402"])
        assert report.ok
        assert report.unsettled == ()
        left_open = dataclasses.replace(report["SV201"], verdict=Verdict.UNDECIDED, reason="nobody knows")
        report = sv.Report((left_open, *report.properties[1:]))
        assert report.verdict is Verdict.UNDECIDED
        assert report.unsettled == ("SV201 undecided: nobody knows",)

    def test_brackets_find_a_property(self) -> None:
        report = sv.verify(SCHEDULE, PROBLEM)
        assert report["SV304"].verdict is sv.Verdict.NOT_APPLICABLE
        with pytest.raises(KeyError, match=re.escape("'SV20' was not judged; did you mean 'SV20")):
            _ = report["SV20"]
        with pytest.raises(KeyError, match="3 was not judged"):
            _ = report[3]

    def test_a_notebook_shows_it_in_colour(self) -> None:
        html = sv.verify(BROKEN, PROBLEM, select=["SV2"])._repr_html_()
        bad = "color:#c00;font-weight:bold"
        assert html.startswith(f'<pre style="line-height:1.3"><span style="{bad}">violated</span>: SV201\n  <span')
        assert "rank 0  0F0 0B0 0F1 0B1\n                ^^^ waits for 1B0\n" in html
        assert f'\n  <span style="{bad}">SV201</span> ' in html
