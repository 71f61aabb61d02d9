"""What late steps of lowered schedules waited for, told in sentences that are true of the times."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from schedverify.cli import main
from schedverify.core.discipline import Discipline
from schedverify.core.errors import ScheduleError
from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.drawing import draw
from schedverify.formats.trace_files import trace
from schedverify.generators import generate
from schedverify.simulator.delay_reasons import delays
from schedverify.simulator.engine import simulate
from support.random_lowerings import lowered_rows, shuffled
from support.random_schedules import base

TRANSFER = {"bytes": 4, "bandwidth": 1}
BEHIND = """
0F0 0SEND_F0 0F1 0SEND_F1 0F2 0SEND_F2 0F3 0SEND_F3 2RECV_F0 2F0 2SEND_F0 2RECV_F1 2F1 2SEND_F1 2RECV_F2 2F2 2SEND_F2 2RECV_F3 2F3 2SEND_F3
1RECV_F0 1F0 1RECV_F1 1F1 1RECV_F2 1F2 1RECV_F3 1SEND_F0 1F3 3RECV_F0 3F0 1SEND_F1 3RECV_F1 3F1 1SEND_F2 3RECV_F2 3F2 1SEND_F3 3RECV_F3 3F3
"""  # noqa: E501


def told(text: str, problem: Problem, discipline: str, **options: int) -> list[str]:
    return [delay.text for delay in delays(simulate(Schedule.parse(text), problem, discipline=discipline, **options))]


def test_a_receive_that_stands_behind_a_send() -> None:
    problem = Problem.chain(ranks=2, microbatches=4, virtual=2, forward=10, form="inference", **TRANSFER)
    assert told(BEHIND, problem, "rank") == [
        "2F0 waits on 2RECV_F0, which stands behind 0SEND_F3 in rank 0's queue",
        "2F1 waits on 2RECV_F1, whose 1SEND_F1 stands behind 3F0 in rank 1's program",
        "2F2 waits on 2RECV_F2, whose 1SEND_F2 stands behind 3F1 in rank 1's program",
        "2F3 waits on 2RECV_F3, whose 1SEND_F3 stands behind 3F2 in rank 1's program",
        "1F0 waits on 1RECV_F0, whose tensor 0F0 is still making",
        "1F1 waits on 1RECV_F1, which stands behind 1F0 in rank 1's program",
        "1F2 waits on 1RECV_F2, which stands behind 1F1 in rank 1's program",
        "1F3 waits on 1RECV_F3, which stands behind 1F2 in rank 1's program",
        "3F0 waits on 3RECV_F0, whose tensor 2F0 is still making",
        "3F1 waits on 3RECV_F1, whose tensor 2F1 is still making",
        "3F2 waits on 3RECV_F2, whose tensor 2F2 is still making",
        "3F3 waits on 3RECV_F3, whose tensor 2F3 is still making",
    ]


def test_a_program_that_is_held_and_a_rank_that_is_late() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, forward=[1, 5], form="inference", **TRANSFER)
    text = "0F0 0SEND_F0 0F1 0SEND_F1\n1RECV_F0 1F0 1RECV_F1 1F1"
    assert told(text, problem, "block") == [
        "0F1 waits on 0SEND_F0, which holds rank 0's program",
        "1F0 waits on 1RECV_F0, whose tensor 0F0 is still making",
        "1F1 waits on 1RECV_F1, which stands behind 1F0 in rank 1's program",
    ]
    local = Problem.chain(ranks=2, microbatches=1, stages=3, placement=[0, 1, [1, 0]], edges=[[0, 1]], forward=3,
                          form="inference")  # fmt: skip
    assert told("0F0 0SEND_F0 2F0\n1RECV_F0 1F0 2F0", local, "pair") == [
        "2F0 waits for rank 1, which is at 1F0",
        "1F0 waits on 1RECV_F0, whose tensor 0F0 is still making",
    ]


def test_an_eager_message_waits_in_the_queue_of_its_send() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, forward=1, form="inference", **TRANSFER)
    text = "0F0 0SEND_F0 0F1 0SEND_F1\n1RECV_F0 1F0 1RECV_F1 1F1"
    assert told(text, problem, "pair", eager_bytes=9) == [
        "1F0 waits on 1RECV_F0, whose tensor 0F0 is still making",
        "1F1 waits on 1RECV_F1, whose 0SEND_F1 stands behind 0SEND_F0 in rank 0's queue",
    ]


def test_a_plain_order_tells_nothing() -> None:
    problem = Problem.chain(ranks=2, microbatches=2)
    assert list(delays(simulate(generate("1f1b", problem), problem))) == []


@pytest.mark.parametrize("discipline", Discipline)
def test_every_late_step_is_told(discipline: str) -> None:
    for number in range(60):
        found, rng = base(number), random.Random(number)
        schedule = Schedule.of(shuffled(rng, lowered_rows(found)))
        try:
            timeline = simulate(schedule, found.problem, discipline=discipline, eager_bytes=rng.choice([0, 3]))
        except ScheduleError:
            continue
        if not schedule.lowered:
            continue
        expected = []
        for rank, (starts, ends) in enumerate(zip(timeline.starts, timeline.ends, strict=True)):
            free = 0
            for position, step in enumerate(schedule.steps(rank)):
                if step.ops[0].kind <= Kind.W:
                    start = int(starts[position])
                    expected += [(rank, position, start - free)] * (start > free)
                    free = int(ends[position])
        assert [(delay.rank, delay.position, delay.ticks) for delay in delays(timeline)] == expected


def test_a_picture_shows_the_compute_steps_where_the_discipline_puts_them() -> None:
    problem = Problem.chain(ranks=2, microbatches=2, forward=2, backward=4, **TRANSFER)
    lowered = Schedule.parse(
        "0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1\n1RECV_F0 1F0 1B0 1RECV_F1 1SEND_B0 1F1 1B1 1SEND_B1"
    )
    timeline = simulate(lowered, problem, discipline="block")
    picture = draw(timeline)
    assert "SEND" not in picture.text()
    assert "transfers are not drawn; they queue as under block" in " ".join(picture.text(200).splitlines())
    row, steps = picture.panels[0].rows[1], list(lowered.steps(1))
    times = zip(timeline.starts[1].tolist(), steps, strict=True)
    assert row.starts.tolist() == [start for start, step in times if step.ops[0].kind <= Kind.W]


def test_a_trace_puts_transfers_beside_the_compute_steps() -> None:
    problem = Problem.chain(ranks=2, microbatches=1, **TRANSFER)
    timeline = simulate(Schedule.parse("0F0 0SEND_F0 0RECV_B0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0"), problem)
    events = [event for event in json.loads(trace(timeline))["traceEvents"] if event["ph"] == "X"]
    assert {(event["name"], event["tid"]) for event in events if event["pid"] == 0} == {
        ("0F0", 0), ("0SEND_F0", 1), ("0RECV_B0", 2), ("0B0", 0),
    }  # fmt: skip


def test_draw_shows_a_lowered_schedule_under_a_discipline_and_a_deadlock_as_an_order(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "order.txt").write_text(
        "0F0 0SEND_F0 0RECV_B0 0B0 0F1 0SEND_F1 0RECV_B1 0B1\n1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1"
    )
    (tmp_path / "stuck.txt").write_text("0F0 0RECV_B0 0SEND_F0 0B0\n1RECV_F0 1F0 1B0 1SEND_B0")
    assert main(["draw", str(tmp_path / "order.txt"), "--discipline", "rank"]) == 0
    shown = capsys.readouterr().out
    assert "they queue as under rank" in shown
    assert "violation" not in shown
    assert main(["draw", str(tmp_path / "stuck.txt"), "--discipline", "rank"]) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert "SV304 rank 0" in shown
    assert "the order of the steps, without times" in shown
    assert main(["draw", str(tmp_path / "stuck.txt"), "--discipline", "tagged"]) == 0
    assert "SV304" not in capsys.readouterr().out


def test_simulate_says_what_transfers_held_up(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "order.txt").write_text(BEHIND)
    (tmp_path / "problem.toml").write_text(
        "version = 1\nranks = 2\nmicrobatches = 4\nvirtual = 2\nform = 'inference'\n"
        "[costs]\nforward = 10\n[links]\nbytes = 4\nbandwidth = 1\n"
    )
    arguments = ["simulate", str(tmp_path / "order.txt"), "-p", str(tmp_path / "problem.toml")]
    assert main([*arguments, "--discipline", "rank"]) == 0
    assert "2F0 waits on 2RECV_F0, which stands behind 0SEND_F3 in rank 0's queue" in capsys.readouterr().out
    assert main([*arguments, "--discipline", "tagged", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["measures"]["makespan"] > 0
    assert main([*arguments, "--discipline", "pairs"]) == 2
    assert main([*arguments, "--eager-bytes", "-1"]) == 2
