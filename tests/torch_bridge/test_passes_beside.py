"""Our passes beside those of the PyTorch that is installed: stages gathered, sends waited for."""

from __future__ import annotations

import pytest

from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.generators import generate
from schedverify.lowering import add_communication, add_late_waits, add_sharding
from schedverify.verifier.verification import verify

schedules = pytest.importorskip("torch.distributed.pipelining.schedules")
SHAPES = [
    ("interleaved-1f1b", 2, 4, 2), ("interleaved-1f1b", 2, 4, 4), ("looped-bfs", 2, 4, 4), ("looped-bfs", 3, 6, 3),
    ("zb-v", 3, 6, 2), ("zb-v", 2, 6, 2),
]  # fmt: skip
with_waits = pytest.mark.skipif(not hasattr(schedules, "_add_wait_send_budget"), reason="PyTorch before 2.15")
Actions = dict[int, list[object]]


def actions_of(schedule: Schedule) -> Actions:
    return {rank: [schedules._Action.from_str(cell) for cell in row] for rank, row in enumerate(schedule.strings())}


def schedule_of(actions: Actions) -> Schedule:
    return Schedule.of([map(str, actions[rank]) for rank in range(len(actions))])


def shape(name: str, ranks: int, microbatches: int, virtual: int) -> tuple[Schedule, Problem]:
    keys = {"placement": "v"} if name == "zb-v" else {}
    problem = Problem.chain(ranks=ranks, microbatches=microbatches, virtual=virtual, form="split", **keys)
    return generate(name, problem), problem


def gathers(schedule: Schedule) -> int:
    return sum(cell.endswith("UNSHARD") for row in schedule.strings() for cell in row)


@pytest.mark.parametrize("case", SHAPES)
def test_pytorch_gathers_no_less_often_within_the_same_limit(case: tuple[str, int, int, int]) -> None:
    order, problem = shape(*case)
    for most in (2, 3, 4):
        ours = add_sharding(order, problem, most=most, lookahead=most)
        theirs = schedule_of({r: schedules._add_unshard_reshard(row, most) for r, row in actions_of(order).items()})
        limited = Problem.of(problem.to_dict() | {"limits": {"unsharded": most}})
        assert verify(ours, limited, select=["SV305", "SV405"]).ok
        if not verify(theirs, limited, select=["SV405"]).violations:
            assert gathers(ours) <= gathers(theirs)


@with_waits
@pytest.mark.parametrize("case", SHAPES)
@pytest.mark.parametrize("most", [1, 2, 4])
def test_waits_keep_a_budget_wherever_pytorch_s_do(case: tuple[str, int, int, int], most: int) -> None:
    order, problem = shape(*case)
    problem = Problem.of(problem.to_dict() | {"limits": {"outstanding_sends": most}})
    lowered = add_communication(order, problem)
    theirs = schedules._add_wait_send(actions_of(lowered))
    theirs = schedules._add_wait_send_budget(theirs, problem.owner_rank.__getitem__, most)
    ours = add_late_waits(lowered, problem, "edge")
    for waiting in (ours, schedule_of(theirs)):
        assert not verify(waiting, problem, select=["SV3", "SV404"], discipline="edge").violations
    schedules._validate_send_waits(actions_of(ours))
