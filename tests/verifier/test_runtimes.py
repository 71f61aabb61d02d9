"""SV7, what other runtimes need: selected by profile, and judged as the second judge does."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import schedverify as sv
from oracle.runtimes import profile_verdicts
from schedverify.cli import main
from schedverify.core.op import Kind, Op
from schedverify.core.result import Verdict
from schedverify.lowering import add_reduction
from schedverify.planner.export import for_torch
from schedverify.verifier.rules import REGISTRY
from schedverify.verifier.runtimes import PROFILES

CODES = tuple(sorted(code for code in REGISTRY if code.startswith("SV7")))
Capture = pytest.CaptureFixture[str]
BARE = (Kind.F, Kind.B, Kind.I, Kind.W)


@st.composite
def cases(draw: st.DrawFn) -> tuple[list[list[str]], sv.Problem]:
    """Draw rows of any operations for a problem that a profile may or may not take."""
    ranks = draw(st.integers(1, 3))
    placement = draw(st.lists(st.integers(0, ranks - 1), min_size=1, max_size=4))
    stages = len(placement)
    tied = [[0, stages - 1]] if stages > 1 and draw(st.booleans()) else []
    edges = [[s, s + 1] for s in range(stages - 1)]
    if stages > 2 and draw(st.booleans()):
        edges.append([0, stages - 1])
    keys = {"form": draw(st.sampled_from(["fused", "inference"])), "tied": tied, "edges": edges}
    problem = sv.Problem.chain(ranks=ranks, microbatches=3, placement=placement, stages=stages, **keys)
    kinds = draw(st.sampled_from([BARE, tuple(Kind)]))
    stage, m = st.integers(0, stages - 1), st.integers(0, 2)
    ops = st.builds(lambda k, s, i: str(Op(k, s, i if k < Kind.UNSHARD else None)), st.sampled_from(kinds), stage, m)
    groups = st.lists(ops.filter(lambda op: "SEND" in op or "RECV" in op), min_size=1, max_size=2)
    steps = ops if kinds is BARE else ops | groups.map(lambda members: f"[{';'.join(members)}]")
    rows = draw(st.lists(st.lists(steps, max_size=8), min_size=ranks, max_size=ranks))
    return rows, problem


@given(cases())
@settings(deadline=None, max_examples=300)
def test_two_judges_agree(case: tuple[list[list[str]], sv.Problem]) -> None:
    rows, problem = case
    schedule = sv.Schedule.of(rows)
    report = sv.verify(schedule, problem, select=CODES)
    found = {result.code: result.verdict is Verdict.VIOLATED for result in report.properties}
    assert found == profile_verdicts(schedule.strings(), problem.to_dict())


def test_they_are_judged_on_request_only() -> None:
    schedule = sv.Schedule.parse("0F1 0F0 0B0 0B1")
    codes = {
        profile: {r.code for r in sv.verify(schedule, profile=profile).properties} for profile in (None, *PROFILES)
    }
    assert not any(code.startswith("SV7") for code in codes[None])
    assert codes["torch"] - codes[None] == {code for code in CODES if code < "SV71"}
    assert codes["torchtitan"] - codes[None] == {code for code in CODES if code < "SV72"}
    assert codes["torch-2.15"] - codes[None] == {"SV701", "SV702", "SV703", "SV705", "SV721", "SV722", "SV723"}
    assert {r.code for r in sv.verify(schedule, select=["SV702"]).properties} == {"SV702"}


def test_a_plan_is_judged_with_its_communication() -> None:
    problem = sv.Problem.chain(ranks=2, microbatches=2)
    plan = sv.optimize(problem, time_limit=5, workers=1)
    report = sv.verify(plan, profile="torch")
    assert [violation.code for violation in report.violations] == ["SV703", "SV703"]


def test_an_unknown_profile_is_told() -> None:
    with pytest.raises(sv.UnknownNameError, match=r"unknown profile 'torchtitn' .did you mean 'torchtitan'"):
        sv.verify(sv.Schedule.parse("0F0 0B0"), profile="torchtitn")


class TestExport:
    def test_no_csv_leaves_that_the_runtime_would_run_wrongly(self, tmp_path: Path, capsys: Capture) -> None:
        order, csv = tmp_path / "order.txt", tmp_path / "order.csv"
        order.write_text("0F1 0F0 0B1 0B0\n1F1 1B1 1F0 1B0\n")
        assert main(["convert", str(order), str(csv)]) == 1
        assert "SV702 rank 1, position 2 (1F0): it stands behind 1F1" in capsys.readouterr().err
        assert not csv.exists()
        assert main(["convert", str(order), str(csv), "--profile", "none"]) == 0
        assert csv.read_text() == "0F1,0F0,0B1,0B0\n1F1,1B1,1F0,1B0\n"

    def test_each_stage_gets_its_reduction(self) -> None:
        problem = sv.Problem.chain(ranks=2, microbatches=2)
        lowered = sv.lower(sv.generate("1f1b", problem), problem)
        leaving = for_torch(lowered, problem)
        assert leaving == add_reduction(lowered, problem)
        assert for_torch(leaving, problem) == leaving
        assert for_torch(lowered, problem, comms=False) == lowered.compute_only()

    def test_torchtitan_takes_no_communication_and_no_other_placement(self) -> None:
        problem = sv.Problem.chain(ranks=2, microbatches=2, placement=[0, 0, 1, 1], stages=4)
        schedule = sv.generate("gpipe", problem)
        with pytest.raises(sv.ScheduleError, match="SV711"):
            for_torch(schedule, problem, profile="torchtitan", comms=False)
        with pytest.raises(sv.ScheduleError, match="SV712"):
            for_torch(sv.lower(schedule, problem), problem, profile="torchtitan")

    def test_commands_that_write_a_csv_ask_first(self, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "p.toml").write_text(INFERENCE)
        command = ["generate", "gpipe", "--problem", str(tmp_path / "p.toml"), "-o"]
        assert main([*command, str(tmp_path / "s.csv")]) == 1
        assert "SV701" in capsys.readouterr().err
        assert main([*command, str(tmp_path / "s.txt")]) == 0
        assert (
            main(["lower", str(tmp_path / "s.txt"), "-p", str(tmp_path / "p.toml"), "-o", str(tmp_path / "s.csv")]) == 1
        )


INFERENCE = 'ranks = 2\nmicrobatches = 2\nform = "inference"\n[costs]\nforward = 1\n'
