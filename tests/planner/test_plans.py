"""No plan leaves before its schedule with communication in it is verified too."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from schedverify.cli import main
from schedverify.core.discipline import Discipline
from schedverify.core.errors import InputError, ScheduleError
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Status, Verdict
from schedverify.core.schedule import Schedule
from schedverify.formats import load, save
from schedverify.generators import families, generate
from schedverify.lowering import add_reduction
from schedverify.planner import plans, warm_starts
from schedverify.planner.plans import RefusedPlanError, optimize, plan_of
from schedverify.planner.proved_lowering import ProvedLowering, lower
from schedverify.simulator.engine import simulate
from schedverify.verifier.verification import verify, verify_case
from support.call_counts import count_calls

TIGHT = """
ranks = 2
microbatches = 3
[costs]
forward = 1
backward = 2
[links]
bytes = 5
[memory]
activation = 10
capacity = 20
"""


def test_a_plan_holds_its_schedule_with_communication() -> None:
    problem = Problem.chain(ranks=3, microbatches=5, forward=3, backward=6, latency=1, bytes=4, bandwidth=2)
    plan = optimize(problem, time_limit=5, workers=1)
    lowered = plan.lowered
    assert (lowered.discipline, lowered.eager_bytes) == (Discipline.PAIR, 0)
    assert lowered.schedule.compute_only() == plan.schedule
    assert lowered.measures == simulate(lowered.schedule, problem).measures
    verdicts = dict(plan.verdicts)
    assert {verdicts[code] for code in ("SV301", "SV302", "SV303", "SV304")} == {Verdict.HOLDS}
    report = verify(plan)
    assert report.ok
    assert report.communication.discipline is Discipline.PAIR


def test_a_problem_without_messages_has_a_lowered_part_without_any() -> None:
    problem = Problem.chain(ranks=1, microbatches=2)
    plan = plan_of(generate("1f1b", problem), problem)
    assert plan.lowered.schedule == plan.schedule
    assert verify(plan).ok


def test_communication_that_is_given_is_kept() -> None:
    problem = Problem.chain(ranks=2, microbatches=2)
    order = generate("1f1b", problem)
    lowered = lower(order, problem, discipline="block")
    plan = plan_of(lowered, problem)
    assert (plan.schedule, plan.lowered.schedule) == (order, lowered)
    hanging = Schedule.parse(
        "0F0 0F1 0RECV_B0 0SEND_F0 0SEND_F1 0B0 0RECV_B1 0B1\n1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1"
    )
    with pytest.raises(ScheduleError, match="SV304"):
        plan_of(hanging, problem)
    assert optimize(problem, hint=lowered, time_limit=5, workers=1).value == 9


def test_a_given_schedule_that_is_wrong_is_the_callers_fault() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, in_flight=1)
    with pytest.raises(ScheduleError, match=r"^SV103 .*\n?SV103"):
        plan_of(Schedule.parse("0F0 0B0\n1F0 1B0 1F1"), problem)
    with pytest.raises(ScheduleError, match=r"^SV201"):
        plan_of(Schedule.parse("0F0 0B0 0F1 0B1\n1F0 1F1 1B0 1B1"), problem)
    with pytest.raises(ScheduleError, match=r"^SV401"):
        plan_of(generate("1f1b", problem), problem)
    with pytest.raises(InputError, match="ranks"):
        plan_of(Schedule.parse("0F0 0F1 0B0 0B1"), problem)


def test_received_bytes_can_be_too_many_for_every_lowering(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tight.toml").write_text(TIGHT)
    problem = load(tmp_path / "tight.toml")
    plan = optimize(problem, time_limit=5, workers=1)
    assert plan.schedule is not None
    assert plan.lowered is None
    assert plan.reason.startswith("no known lowering of it keeps the limits: rank 0 holds 25 units")
    with pytest.raises(ScheduleError, match="no known lowering"):
        plan_of(plan.schedule, problem)
    target = tmp_path / "plan.json"
    assert main(["optimize", str(tmp_path / "tight.toml"), "-o", str(target), "--workers", "1"]) == 1
    told = capsys.readouterr()
    assert "no plan is written: no known lowering" in told.err
    assert f"makespan {plan.value}" in told.out  # what was found is shown all the same
    assert not target.exists()


def test_a_lowering_that_is_refused_is_a_fault_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    problem = Problem.chain(ranks=2, microbatches=1)
    hanging = Schedule.parse("0F0 0RECV_B0 0SEND_F0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0")
    wrong = ProvedLowering(simulate(hanging, problem, discipline="tagged"), verify(hanging, problem))
    monkeypatch.setattr(plans, "proved_lowering", lambda *_, **__: wrong)
    with pytest.raises(RefusedPlanError, match="refuses what was lowered; please report this:\nSV304"):
        plan_of(generate("1f1b", problem), problem)


def test_a_plan_gives_its_communication_to_pytorch(tmp_path: Path) -> None:
    problem = Problem.chain(ranks=2, microbatches=2)
    plan = plan_of(generate("1f1b", problem), problem)
    (tmp_path / "order.txt").write_text(f"{plan.schedule}\n")
    source, csv, again = (str(tmp_path / name) for name in ("plan.json", "plan.csv", "again.json"))
    assert main(["convert", str(tmp_path / "order.txt"), source]) == 0
    assert main(["convert", source, csv, "--to", "torch-comms-csv"]) == 0
    assert load(csv) == add_reduction(plan.lowered.schedule, problem)
    assert main(["convert", csv, again]) == 0
    read = load(again)
    assert isinstance(read, Plan)
    assert read.lowered.schedule == load(csv)
    assert read.lowered.measures == plan.lowered.measures
    assert json.loads(Path(source).read_text())["lowered"]["discipline"] == "pair"
    assert main(["verify", source]) == 0


def work(task: Callable[[], object]) -> tuple[int, int]:
    """Return how many verifications and how many timelines a task makes."""
    counts = count_calls(task, verify, verify_case, simulate)
    return counts["verify"] + counts["verify_case"], counts["simulate"]


@pytest.mark.parametrize("form", ["fused", "split"])
def test_an_optimize_simulates_and_verifies_each_schedule_once(form: str, tmp_path: Path) -> None:
    """Each family's schedule, the best one, and the best one with communication; lowering needs two timelines more."""
    problem = Problem.chain(ranks=4, microbatches=8, form=form)
    suited = [family for family in families() if family.suits(problem)]
    in_families = work(lambda: [family.generate(problem) for family in suited])[1]
    expected = (len(suited) + 2, in_families + len(suited) + 4)
    assert work(lambda: optimize(problem, workers=1)) == expected
    path = tmp_path / "problem.json"
    path.write_text(json.dumps(problem.to_dict()), encoding="utf-8")
    verifications, timelines = work(lambda: main(["optimize", str(path), "--workers", "1"]))
    assert verifications == expected[0]
    assert timelines <= expected[1] + 1, "the picture"


def test_a_given_schedule_is_verified_once_without_and_once_with_communication() -> None:
    problem = Problem.chain(ranks=4, microbatches=8)
    order = generate("1f1b", problem)
    lowered = lower(order, problem)
    assert work(lambda: plan_of(order, problem)) == (2, 4)
    assert work(lambda: plan_of(lowered, problem)) == (2, 2)
    assert work(lambda: lower(order, problem, discipline="pair"))[0] == 1


def test_a_plan_says_what_the_families_have() -> None:
    problem = Problem.chain(ranks=3, microbatches=6, activation=2, capacity=6)
    plan = optimize(problem, workers=1)
    assert [result.family for result in plan.families] == [f.name for f in families() if f.suits(problem)]
    for result in plan.families:
        schedule = generate(result.family, problem)
        assert result.measures == simulate(schedule, problem).measures
        violations = verify(schedule, problem, select=["SV1", "SV2", "SV4"]).violations
        assert result.violated == tuple(sorted({violation.code for violation in violations}))
    assert {result.violated for result in plan.families} >= {(), ("SV402",)}
    assert plan_of(generate("1f1b", problem), problem).families == ()


@pytest.mark.parametrize("many_steps", [60_000, 1])
def test_where_gpipe_is_as_fast_the_plan_holds_what_1f1b_does(many_steps: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warm_starts, "_MANY_STEPS", many_steps)
    plan = optimize(Problem.chain(ranks=4, microbatches=8, forward=1, backward=2), workers=1)
    assert (plan.status, plan.value, plan.bound) == (Status.OPTIMAL, 33, 33)
    assert plan.measures.peak_memory == (4, 3, 2, 1)
    assert generate("gpipe", plan.problem) != plan.schedule
    assert verify(plan).ok


@pytest.mark.parametrize("objective", ["makespan", "span", "peak-memory"])
@pytest.mark.parametrize(
    "shape",
    [
        {"latency": 1, "backward": [2, 3, 2]}, {"form": "split", "weight_stash": 1, "activation": 2},
        {"virtual": 2}, {"virtual": 2, "placement": "v", "form": "split"}, {"slices": 2},
        {"replicas": 2, "placement": [[0, 1, 2], [2, 1, 0]]},
        {"capacity": [3, 3, 2], "static": [0, 1, 0]}, {"form": "inference"}, {"in_flight": [3, 2, 6]},
        {"activation": [1, 2, 5], "recompute": [True, False, True]},
    ],
)  # fmt: skip
def test_no_family_is_as_good_with_less_memory(shape: dict[str, Any], objective: str) -> None:
    given: dict[str, Any] = {"ranks": 3, "microbatches": 6, "forward": 1}
    problem = Problem.chain(**given | shape)
    plan = optimize(problem, objective=objective, workers=1, time_limit=10)
    assert plan.measures is not None
    held = sorted(plan.measures.peak_memory, reverse=True)
    for family in plan.families:
        if not family.violated and family.measures.value(objective) == plan.value:
            peaks = sorted(family.measures.peak_memory, reverse=True)
            assert peaks[0] >= held[0]
            same_time = objective != "peak-memory" or family.measures.makespan <= plan.measures.makespan
            assert peaks >= held or not same_time, family.family


def test_one_worker_and_a_seed_give_the_same_bytes(tmp_path: Path) -> None:
    problem = Problem.chain(ranks=3, microbatches=5, forward=[1, 2, 1], backward=2, latency=1)
    for objective in ("makespan", "span", "peak-memory"):
        for name in ("first.json", "second.json"):
            save(optimize(problem, objective=objective, seed=3, workers=1), tmp_path / name)
        assert (tmp_path / "first.json").read_bytes() == (tmp_path / "second.json").read_bytes()
