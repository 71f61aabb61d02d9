"""What a search may take: bad values are told, limits end it with a plain status, one worker repeats itself."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from schedverify.cli import main
from schedverify.core.ending import OverError
from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from schedverify.core.result import Plan, Status
from schedverify.core.schedule import Schedule
from schedverify.formats.plan_files import to_json
from schedverify.optimizer.effort import GRACE, Effort, resident
from schedverify.planner.plans import optimize
from schedverify.verifier.verification import verify

UNEVEN = Problem.chain(
    ranks=3, microbatches=4, forward=[3, 2, 4], backward_input=[3, 2, 4], backward_weight=[2, 1, 2], latency=1,
    activation=2, weight_stash=1, capacity=7,
)  # fmt: skip
HARD = Problem.chain(
    ranks=4, microbatches=12, virtual=2, placement="v", forward=[3, 5, 4, 6, 3, 5, 4, 2], backward_input=4,
    backward_weight=[2, 3, 1, 2, 2, 3, 1, 2], latency=1, activation=2, weight_stash=1, capacity=8,
)  # fmt: skip


@pytest.mark.parametrize(
    ("values", "key", "hint"),
    [
        ({"time_limit": -1}, "time_limit", "0 or more"),
        ({"time_limit": float("nan")}, "time_limit", "0 or more"),
        ({"time_limit": float("inf")}, "time_limit", "0 or more"),
        ({"time_limit": "60"}, "time_limit", "0 or more"),
        ({"workers": 0}, "workers", "all cores"),
        ({"workers": 2.0}, "workers", "all cores"),
        ({"workers": 10**9}, "workers", "all cores"),
        ({"seed": -1}, "seed", "such as 0"),
        ({"seed": 2**31}, "seed", "such as 0"),
        ({"seed": True}, "seed", "such as 0"),
        ({"solver_memory": 0}, "solver_memory", "4 GiB"),
        ({"solver_memory": "4 GiB"}, "solver_memory", "4 * 2**30"),
    ],
)
def test_a_bad_value_is_told_with_a_hint(values: dict[str, Any], key: str, hint: str) -> None:
    with pytest.raises(InputError) as caught:
        optimize(UNEVEN, **values)
    (fault,) = caught.value.faults
    assert fault.key == key
    assert hint in fault.hint


def test_all_bad_values_are_told_at_once() -> None:
    with pytest.raises(InputError) as caught:
        Effort(-1, -1, -1, -1)
    assert [fault.key for fault in caught.value.faults] == ["time_limit", "seed", "workers", "solver_memory"]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (("--solver-memory", "lots"), "--solver-memory: expected bytes, found 'lots' (such as \"4 GiB\")"),
        (("--solver-memory", "1 B"), "--solver-memory: expected bytes"),
        (("--time-limit", "nan"), "--time-limit: expected a number of seconds, found nan"),
        (("--workers", "0"), "workers: expected a whole number from 1"),
        (("--seed", "-3"), "seed: expected a whole number from 0"),
        (("--then", "period"), "period"),
        (("--objective", "span", "--then", "makespan"), "cannot minimize the makespan behind the span"),
    ],
)
def test_a_bad_option_ends_with_two(
    arguments: tuple[str, ...], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "two.toml"
    path.write_text("ranks = 2\nmicrobatches = 2\n[costs]\nforward = 1\nbackward = 2\n", encoding="utf-8")
    code = main(["optimize", str(path), *arguments])
    captured = capsys.readouterr()
    assert (code, captured.out) == (2, "")
    assert told in captured.err
    assert "Traceback" not in captured.err


def test_the_memory_cap_ends_the_solver_and_keeps_the_best() -> None:
    plan = optimize(HARD, workers=1, time_limit=60, solver_memory=1 << 20)
    assert plan.status is Status.FEASIBLE
    assert plan.reason == "the process came to hold the 1 MiB that the solver may take"
    assert not verify(plan).violations
    assert resident() > 1 << 20


def test_a_cap_that_is_not_met_changes_nothing() -> None:
    assert optimize(UNEVEN, workers=1, solver_memory=1 << 40) == optimize(UNEVEN, workers=1)


def test_no_time_at_all_gives_what_needs_no_search() -> None:
    plan = optimize(HARD, workers=1, time_limit=0)
    assert plan.status is Status.FEASIBLE
    assert plan.reason == "the time limit of 0 s ended the search"


def test_a_stop_that_is_set_names_the_part_that_is_open() -> None:
    stop = threading.Event()
    stop.set()
    plan = optimize(HARD, objective="makespan", then="peak-memory", stop=stop)
    assert plan.status is Status.FEASIBLE
    assert plan.reason == "the first objective is open: the search was stopped"


@pytest.mark.parametrize("goal", [{}, {"objective": "peak-memory", "then": "makespan"}, {"then": "peak-memory"}])
def test_one_worker_and_a_seed_give_the_same_bytes(goal: dict[str, str]) -> None:
    first, second = (optimize(UNEVEN, **{"objective": "makespan"} | goal, workers=1, seed=5) for _ in range(2))
    assert first.status is Status.OPTIMAL
    assert to_json(first) == to_json(second)


def test_the_command_gives_the_same_bytes_twice(tmp_path: Path) -> None:
    problem, plan = tmp_path / "p.json", tmp_path / "plan.json"
    import json

    problem.write_text(json.dumps(UNEVEN.to_dict()), encoding="utf-8")
    written = []
    for _ in range(2):
        assert main(["optimize", str(problem), "--workers", "1", "--seed", "3", "-o", str(plan)]) == 0
        written.append(plan.read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_any_number_of_workers_gives_the_value(workers: int) -> None:
    assert optimize(UNEVEN, workers=workers).value == optimize(UNEVEN, workers=1).value


MIXED = Problem.chain(ranks=2, microbatches=3, form="split", backward=[2, 3], latency=1)
OUT_OF_ORDER = "0F2 0F0 0F1 0B2 0I0 0W0 0B1\n1F2 1I2 1F0 1W2 1B0 1F1 1I1 1W1"


def test_a_hint_out_of_order_and_of_mixed_form_is_taken() -> None:
    hint = Schedule.parse(OUT_OF_ORDER)
    stop = threading.Event()
    stop.set()
    plan = optimize(MIXED, hint=hint, stop=stop)
    worst = max(optimize(MIXED, stop=stop).value or 0, 0)
    assert plan.schedule is not None
    assert (plan.value or 0) <= worst
    assert optimize(MIXED, hint=hint, workers=1).status is Status.OPTIMAL


def test_what_a_hint_is_worth_is_kept() -> None:
    best = optimize(HARD, workers=2, time_limit=3)
    assert isinstance(best, Plan)
    assert best.schedule is not None
    again = optimize(HARD, hint=best.schedule, time_limit=0)
    assert (again.value or 0) <= (best.value or 0)


def test_a_hint_that_is_no_valid_schedule_is_refused_with_every_violation() -> None:
    late = Schedule.parse(OUT_OF_ORDER.replace("1F2 1I2", "1I2 1F2").replace(" 0B1", ""))
    with pytest.raises(InputError) as caught:
        optimize(MIXED, hint=late)
    told = {fault.message[:5] for fault in caught.value.faults}
    assert told == {"SV103", "SV201"}
    assert all(fault.key == "hint" for fault in caught.value.faults)


def test_a_check_raises_once_the_means_are_used_up() -> None:
    effort = Effort(600)
    effort.check()
    assert not effort.is_over()
    effort.stop.set()
    with pytest.raises(OverError):
        effort.check()
    with pytest.raises(OverError):
        Effort(0).check()


def test_a_first_schedule_is_looked_for_a_while_longer() -> None:
    assert not Effort(0).too_late_for_first(known=False)
    assert Effort(0).too_late_for_first(known=True)
    assert not Effort(600).too_late_for_first(known=True)
    late = Effort(0)
    object.__setattr__(late, "began", late.began - GRACE - 1)
    assert late.too_late_for_first(known=False)
    stopped = Effort(600)
    stopped.stop.set()
    assert stopped.too_late_for_first(known=False)
