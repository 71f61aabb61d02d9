"""What reports, plans and timelines say of themselves: the command line's tables, one line, and what brackets find."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re

import pytest

import schedverify as sv
from schedverify.cli import main
from schedverify.core.verdict import Verdict, Verdicts

PROBLEM = sv.Problem.chain(ranks=2, microbatches=2, forward=1, backward=2)
SCHEDULE = sv.generate("1f1b", PROBLEM)
BROKEN = sv.Schedule.parse("0F0 0B0 0F1 0B1\n1F1 1F0 1B0 1B1")
MEASURES = """\
  makespan         9
  span             9
  bubble fraction  0.3333
  bubble overhead  0.5000
  span bubble      0.3333
  peak in flight   2 1
  peak memory      2 1"""


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
        assert str(report) == (
            "holds\n"
            "  SV201  no cycle of dependencies and rank orders  holds           every duration\n"
            "  SV304  no deadlock under the discipline          not applicable  no send and no receive stands in the "
            f"schedule\n{MEASURES}"
        )
        assert str(sv.verify(SCHEDULE, select=["SV201"])).startswith("note: no problem is given: ranks, placement")

    def test_it_is_one_line_as_a_value(self) -> None:
        assert repr(sv.verify(SCHEDULE, PROBLEM, select=["SV1", "SV201"])) == "<Report: holds, 5 properties>"
        broken = sv.verify(BROKEN, PROBLEM, select=["SV2"])
        assert repr(broken) == "<Report: violated, 1 violation of SV201>"
        result = broken["SV201"]
        twice = dataclasses.replace(result, code="SV999", violations=result.violations * 2)
        assert repr(sv.Report((result, twice))) == "<Report: violated, 3 violations of SV201, SV999>"
        open_result = dataclasses.replace(result, verdict=Verdict.UNDECIDED, violations=())
        assert repr(sv.Report((open_result,))) == "<Report: undecided, SV201>"

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
        assert html.startswith(f'<pre style="line-height:1.3"><span style="{bad}">violated</span>\n  SV201  no cycle')
        assert f'\n  <span style="{bad}">SV201</span> ' in html


class TestPlan:
    PLAN = sv.optimize(PROBLEM, time_limit=5, workers=1)

    def test_it_prints_as_the_command_does(self, tmp_path, capsys) -> None:
        sv.save(PROBLEM, tmp_path / "p.toml")
        main(["optimize", str(tmp_path / "p.toml"), "--workers", "1"])
        printed = lines(capsys.readouterr().out).split("\n")
        own = [line for line in str(self.PLAN).split("\n") if line.startswith(("   ", "this plan", "optimal: "))]
        assert len(own) == 3
        told = [re.sub(" +", " ", line) for line in printed]
        assert [line for line in own if re.sub(" +", " ", line) not in told] == []

    def test_its_text(self) -> None:
        plan = dataclasses.replace(self.PLAN, seconds=0.0)
        verified = ", ".join(code for code, verdict in plan.verdicts.items() if verdict == "holds")
        assert str(plan) == (
            "           makespan  span  bubble  span bubble  peak in flight   peak memory\n"
            "this plan         9     9  0.3333       0.3333  2 on every rank  2 on every rank\n"
            "optimal: makespan 9, no schedule has less than 9\n"
            f"0.0 s, seed 0; verified: {verified}\n"
            "with its communication, under pair: makespan 9"
        )

    def test_what_is_proved_is_told(self) -> None:
        plan = dataclasses.replace(self.PLAN, status=sv.Status.FEASIBLE, bound=8, reason="out of time")
        assert "feasible: makespan 9, at most 12.50% above the optimum\nout of time\n" in str(plan)
        second = sv.SecondaryObjective("peak-memory", 4, None)
        assert "optimal: makespan 9, no bound is known; then peak-memory 4, no bound is known" in str(
            dataclasses.replace(self.PLAN, bound=None, then=second)
        )

    def test_it_is_one_line_as_a_value(self) -> None:
        assert repr(self.PLAN) == "<Plan: optimal, makespan 9, 2 ranks, 8 operations>"
        tight = sv.Problem.chain(ranks=2, microbatches=2, makespan=3)
        none = sv.optimize(tight, time_limit=5, workers=1)
        assert repr(none) == "<Plan: infeasible, makespan>"
        assert str(none) == f"the problem: infeasible ({none.reason})"
        assert none._repr_html_().startswith("<pre")

    def test_a_notebook_shows_its_picture(self) -> None:
        html = self.PLAN._repr_html_()
        assert html.startswith("<svg")
        assert '<span style="color:green;font-weight:bold">optimal</span>' in html

    def test_its_verdicts_are_a_mapping(self) -> None:
        verdicts = self.PLAN.verdicts
        assert verdicts["SV201"] is Verdict.HOLDS
        pairs = dataclasses.replace(self.PLAN, verdicts=tuple(verdicts.items()))
        assert pairs == self.PLAN
        assert hash(pairs) == hash(self.PLAN)
        assert isinstance(pairs.verdicts, Verdicts)
        assert pickle.loads(pickle.dumps(self.PLAN)) == copy.deepcopy(self.PLAN) == self.PLAN

    def test_an_explanation_is_one_line_as_a_value(self) -> None:
        assert repr(sv.explain(self.PLAN, time_limit=0)) == "<Explanation: optimal, makespan>"


def test_verdicts_equal_mappings_and_cannot_be_changed() -> None:
    verdicts = Verdicts([("SV201", Verdict.HOLDS), ("SV101", Verdict.VIOLATED)])
    assert verdicts == {"SV101": "violated", "SV201": "holds"}
    assert hash(verdicts) == hash(Verdicts({"SV101": Verdict.VIOLATED, "SV201": Verdict.HOLDS}))
    assert list(verdicts) == ["SV201", "SV101"]
    assert repr(verdicts) == "Verdicts({'SV201': 'holds', 'SV101': 'violated'})"
    with pytest.raises(TypeError, match="does not support item assignment"):
        verdicts["SV101"] = Verdict.HOLDS
