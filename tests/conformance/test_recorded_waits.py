"""Flight recorder dumps of simulated runs, and where the ranks are said to wait."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest

from schedverify.conformance.recorded_waits import RecordedHang, recorded_hang
from schedverify.core.errors import InputError
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.core.trace import Recording
from schedverify.formats.flight_recorder import recording_from
from schedverify.generators import generate
from schedverify.lowering import add_communication, add_waits
from schedverify.verifier.verification import verify
from support.recorder_dumps import Run, entry

TWO = Problem.chain(ranks=2, microbatches=2)
HANGS = "0F0 0RECV_B0 0SEND_F0 0F1 0SEND_F1 0B0 0RECV_B1 0B1\n1RECV_F0 1F0 1B0 1SEND_B0 1RECV_F1 1F1 1B1 1SEND_B1"


def run_of(schedule: Schedule, problem: Problem, discipline: str = "pair", **options: object) -> Run:
    return Run(schedule.strings(), problem.owner_rank, discipline, **options)  # type: ignore[arg-type]


def read(run: Run, **options: object) -> list[Recording]:
    return [recording_from(json_of(dump)) for dump in run.dumps(**options)]  # type: ignore[arg-type]


def json_of(dump: object) -> object:
    return json.loads(json.dumps(dump))


def hang_of(schedule: Schedule, problem: Problem, discipline: str = "pair", **options: object) -> RecordedHang:
    return recorded_hang(schedule, problem, read(run_of(schedule, problem, discipline, **options)))


def test_two_ranks_that_receive_first() -> None:
    found = hang_of(Schedule.parse(HANGS), TWO)
    first = (
        "rank 0 waits at position 1 (0RECV_B0 from rank 1) for 1SEND_B0 at position 3 of rank 1, which has not begun:"
        " it waits at position 1 (1F0) for 1RECV_F0"
    )
    second = (
        "rank 1 waits at position 0 (1RECV_F0 from rank 0) for 0SEND_F0, which stands on rank 0 behind 0RECV_B0"
        " (position 1) in the same queue"
    )
    assert list(found.lines()) == [
        f"the run hangs: {first}; {second}",
        "  rank 0: begun 3 of 4 transfers of step 0",
        f"    {first}",
        "  rank 1: begun 1 of 4 transfers of step 0",
        f"    {second}",
    ]
    assert found.data()["ranks"][1]["begun"] == 1


def test_a_run_that_ended_waits_nowhere() -> None:
    schedule = add_communication(generate("1f1b", TWO), TWO)
    found = hang_of(schedule, TWO, steps=3)
    assert not found.waiting
    assert list(found.lines()) == [
        "nothing was pending",
        "  rank 0: begun 4 of 4 transfers of step 2, last complete 0RECV_B1 (position 6)",
        "  rank 1: begun 4 of 4 transfers of step 2, last complete 1SEND_B1 (position 7)",
    ]


@pytest.mark.parametrize("discipline", ["edge", "pair", "rank", "block"])
def test_a_rank_that_died_is_found_and_no_cycle_told(discipline: str) -> None:
    problem = Problem.chain(ranks=4, microbatches=4)
    schedule = add_communication(generate("1f1b", problem), problem)
    position = schedule.strings()[2].index("2B1")
    found = hang_of(schedule, problem, discipline, steps=3, dies=(2, 1, position))
    assert found.cycles == ()
    assert [state.step for state in found.ranks] == [1, 1, 1, 1]
    assert "of rank 2, which has not begun: nothing that was recorded holds it up" in found.ranks[1].waits
    assert found.ranks[2].waits == "" or "rank 2 waits" in found.ranks[2].waits


def spoiled(rng: random.Random, schedule: Schedule) -> Schedule:
    """Return a schedule in which some receives stand earlier, and some sends later."""
    rows = schedule.strings()
    for row in rows:
        for _ in range(rng.randrange(6)):
            i = rng.randrange(max(len(row), 1))
            if row and "RECV" in row[i]:
                row.insert(max(i - rng.randint(1, 7), 0), row.pop(i))
            elif row and "SEND" in row[i] and "WAIT" not in row[i]:
                row.insert(i + rng.randint(1, 7), row.pop(i))
    return Schedule.of(rows)


@pytest.mark.parametrize(
    ("discipline", "waits"), [("edge", False), ("pair", False), ("rank", False), ("block", False), ("pair", True)]
)
def test_a_cycle_is_told_where_the_verifier_finds_a_deadlock(discipline: str, waits: bool) -> None:
    hung = 0
    for number in range(100):
        rng = random.Random(number)
        ranks, virtual = rng.choice([(2, 1), (3, 1), (4, 1), (2, 2)])
        problem = Problem.chain(ranks=ranks, microbatches=rng.choice([2, 4]), virtual=virtual)
        family = "interleaved-1f1b" if virtual > 1 else rng.choice(["1f1b", "gpipe"])
        lowered = add_communication(generate(family, problem), problem)
        schedule = spoiled(rng, add_waits(lowered) if waits else lowered)
        report = verify(schedule, problem, discipline=discipline)
        if any(report[code].violations for code in ("SV301", "SV302", "SV303")):
            continue
        run = run_of(schedule, problem, discipline)
        assert run.hangs == bool(report["SV304"].violations), number
        found = recorded_hang(schedule, problem, read(run))
        assert found.waiting == run.hangs, number
        assert bool(found.cycles) == run.hangs, (number, str(schedule), list(found.lines()))
        hung += run.hangs
        stuck = {rank for rank, place in enumerate(run.place) if place[0] == 0}
        named = {int(rank) for cycle in found.cycles for wait in cycle for rank in re.findall(r"^rank (\d+)", wait)}
        assert named <= stuck, number
    assert hung > 3


def test_ranks_of_a_larger_job_are_those_of_the_schedule_in_their_order() -> None:
    for discipline in ("pair", "edge"):
        run = run_of(Schedule.parse(HANGS.replace("0SEND_F1 0B0", "0B0 0SEND_F1")), TWO, discipline)
        own = recorded_hang(Schedule.parse(HANGS), TWO, read(run)) if discipline == "pair" else None
        other = recorded_hang(Schedule.parse(HANGS), TWO, read(run, global_ranks=[3, 7]))
        assert own is None or own == other


def test_what_stood_in_front_is_told_apart_by_its_sizes() -> None:
    """PyTorch's runtime sends shapes and votes before its first step."""
    schedule = add_communication(generate("gpipe", TWO), TWO)
    dumps = run_of(schedule, TWO, steps=2, dies=(1, 1, 1)).dumps()
    for rank, dump in enumerate(dumps):
        text = "nccl:send 0->1" if rank == 0 else "nccl:recv 1<-0"
        votes = [entry(i, "7", text, "completed", 40) for i in range(2)]
        dump["entries"] = [each | {"record_id": i} for i, each in enumerate([*votes, *dump["entries"]])]
    found = recorded_hang(schedule, TWO, [recording_from(dump) for dump in dumps])
    assert [(state.step, state.begun) for state in found.ranks] == [(1, 3), (1, 1)]


def test_dropped_entries_are_made_up_for_or_refused() -> None:
    problem = Problem.chain(ranks=2, microbatches=4)
    schedule = add_communication(generate("1f1b", problem), problem)
    run = run_of(schedule, problem, steps=5, dies=(1, 4, 3))
    found = recorded_hang(schedule, problem, read(run, keep=11))
    whole = recorded_hang(schedule, problem, read(run))
    assert [state.begun for state in found.ranks] == [state.begun for state in whole.ranks]
    assert [state.waits for state in found.ranks] == [state.waits for state in whole.ranks]
    with pytest.raises(InputError, match="several ways"):
        recorded_hang(schedule, problem, read(run, keep=2))


def test_another_order_than_the_schedule_is_refused() -> None:
    two, three = (Problem.chain(ranks=ranks, microbatches=4) for ranks in (2, 3))
    ran, schedule = (add_communication(generate(family, two), two) for family in ("gpipe", "1f1b"))
    recordings = read(run_of(ran, two))
    with pytest.raises(InputError, match="rank 0 sends to rank 1, where 0RECV_B0 stands in the schedule"):
        recorded_hang(schedule, two, recordings)
    with pytest.raises(InputError, match="no send or receive"):
        recorded_hang(generate("gpipe", two), two, recordings)
    with pytest.raises(InputError, match="the schedule has 3 ranks"):
        recorded_hang(
            add_communication(generate("1f1b", three), three),
            three,
            read(run_of(ran, two, "pair"), global_ranks=[4, 5]),
        )


def test_a_rank_without_a_dump_is_told() -> None:
    found = recorded_hang(Schedule.parse(HANGS), TWO, read(run_of(Schedule.parse(HANGS), TWO))[:1])
    assert found.ranks[1].step is None
    assert "of which there is no dump" in found.ranks[0].waits


def test_sizes_that_differ_are_told() -> None:
    schedule = add_communication(generate("gpipe", TWO), TWO)
    dumps = run_of(schedule, TWO, dies=(1, 0, 1)).dumps()
    for dump in dumps:
        dump["entries"][0]["state"] = "started"
    dumps[1]["entries"][0]["output_sizes"] = [[3, 3]]
    found = recorded_hang(schedule, TWO, [recording_from(dump) for dump in dumps])
    assert (
        "both ends are there and nothing stands in front; their sizes differ: [2, 1] and [3, 3]" in found.ranks[0].waits
    )


def test_reads_from_files(tmp_path: Path) -> None:
    from schedverify.formats import load_recordings

    for rank, dump in enumerate(run_of(Schedule.parse(HANGS), TWO).dumps()):
        (tmp_path / f"rank_{rank}.json").write_text(json.dumps(dump))
    loaded = load_recordings(sorted(tmp_path.glob("*.json")))
    assert recorded_hang(Schedule.parse(HANGS), TWO, loaded).cycles
