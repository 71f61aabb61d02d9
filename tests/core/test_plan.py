"""What a plan says of itself: the command line's table, one line, and its verdicts by their code."""

from __future__ import annotations

import copy
import dataclasses
import pickle
import re

import schedverify as sv
from schedverify.cli import main
from schedverify.core.plan import rivals
from schedverify.core.verdict import Verdict, Verdicts

PROBLEM = sv.Problem.chain(ranks=2, microbatches=2, forward=1, backward=2)
SCHEDULE = sv.generate("1f1b", PROBLEM)
BROKEN = sv.Schedule.parse("0F0 0B0 0F1 0B1\n1F1 1F0 1B0 1B1")


def lines(text: str) -> str:
    return "\n".join(line.rstrip() for line in text.rstrip("\n").split("\n"))


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
            "           makespan     span  bubble  span bubble  peak in flight  peak memory\n"
            "this plan   9 ticks  9 ticks  0.3333       0.3333  2 1             2 1 units\n"
            "1f1b        9 ticks  9 ticks  0.3333       0.3333  2 1             2 1 units\n"
            "optimal: makespan 9 ticks, no schedule has less than 9 ticks\n"
            f"0.0 s, seed 0; verified: {verified}\n"
            "with its communication, under pair: makespan 9 ticks"
        )

    def test_of_one_that_was_read_nothing_is_said_to_be_verified(self, tmp_path) -> None:
        sv.save(self.PLAN, tmp_path / "plan.json")
        read = sv.load(tmp_path / "plan.json")
        assert read == self.PLAN
        holding = ", ".join(code for code, verdict in read.verdicts.items() if verdict == "holds")
        assert str(read).splitlines()[2:] == [
            "claimed to be optimal: makespan 9 ticks, no schedule has less than 9 ticks",
            f"read from a file, nothing verified (sv.verify does it); said to hold: {holding}",
            "with its communication, under pair: makespan 9 ticks",
        ]
        assert "verified: " not in str(read)
        none = sv.Plan(PROBLEM, sv.Status.INFEASIBLE, "makespan")
        sv.save(none, tmp_path / "none.json")
        assert str(sv.load(tmp_path / "none.json")).splitlines() == [
            "the problem: claimed to be infeasible",
            "read from a file, nothing verified (sv.verify does it); said to hold: nothing",
        ]
        assert str(none) == "the problem: infeasible\nSV502 is undecided: it is the solver's word"

    def test_of_rivals_as_good_the_one_that_holds_less_stands_there(self) -> None:
        known = {each.family: each for each in self.PLAN.families}
        assert (known["gpipe"].measures.makespan, known["eager-1f1b"].measures.makespan) == (9, 9)
        unusual = tuple(each._replace(usual=False) for each in self.PLAN.families)
        assert [each.family for each in rivals(dataclasses.replace(self.PLAN, families=unusual))] == ["1f1b"]
        broken = tuple(each._replace(violated=("SV402",)) for each in unusual if each.family != "naive")
        assert rivals(dataclasses.replace(self.PLAN, families=(*broken, known["naive"]))) == []

    def test_what_is_proved_is_told(self) -> None:
        plan = dataclasses.replace(self.PLAN, status=sv.Status.FEASIBLE, bound=8, reason="out of time")
        assert "feasible: makespan 9 ticks, at most 12.50% above the optimum\nout of time\n" in str(plan)
        second = sv.SecondaryObjective("peak-memory", 4, None)
        assert "optimal: makespan 9 ticks, no bound is known; then peak-memory 4 units, no bound is known" in str(
            dataclasses.replace(self.PLAN, bound=None, then=second)
        )

    def test_it_is_one_line_as_a_value(self) -> None:
        assert repr(self.PLAN) == "<Plan: optimal, makespan 9, 2 ranks, 8 operations>"
        tight = sv.Problem.chain(ranks=2, microbatches=2, makespan=3)
        none = sv.optimize(tight, time_limit=5, workers=1)
        assert repr(none) == "<Plan: infeasible, makespan>"
        assert str(none) == f"the problem: infeasible ({none.reason})\nverified: SV502"
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
