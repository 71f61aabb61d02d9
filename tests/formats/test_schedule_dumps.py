"""Dumps of jobs: read with their problem by every command that takes a schedule; what is wrong in one has its key."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import schedverify as sv
from schedverify.cli import main
from schedverify.core.errors import InputError
from schedverify.core.schedule import Schedule
from schedverify.formats.loading import load_problem, load_schedule
from schedverify.formats.schedule_dumps import Dump

ORDERS = ["0F0 0SEND_F0 0F1 0SEND_F1 0RECV_B0 0B0 0RECV_B1 0B1", "1RECV_F0 1F0 1RECV_F1 1B0 1SEND_B0 1F1 1B1 1SEND_B1"]
HUNG = ["0F0 0SEND_F0 0F1 0RECV_B0 0B0 0SEND_F1 0RECV_B1 0B1", "1RECV_F0 1F0 1RECV_F1 1F1 1B0 1SEND_B0 1B1 1SEND_B1"]
Data = dict[str, Any]


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def dump(orders: list[str] = ORDERS) -> Data:
    """Return a dump of two ranks with a stage each, as the dumper writes it behind a step."""
    ranks: list[Data] = [
        {"order": order.split(), "stages": {str(rank): [[[2, 4], "torch.float64", 8]]}}
        for rank, order in enumerate(orders)
    ]
    return {"dump": 1, "torch": "2.13.0", "class": "Schedule1F1B", "microbatches": 2, "ranks": ranks}


def write(data: Any, name: str = "dump.json") -> str:
    Path(name).write_text(json.dumps(data), encoding="utf-8")
    return name


def test_a_dump_is_a_schedule_and_its_problem() -> None:
    schedule, problem = sv.load(write(dump()))
    assert isinstance(sv.load("dump.json"), Dump)
    assert schedule == Schedule.parse("\n".join(ORDERS))
    assert (problem.ranks, problem.microbatches, problem.owner_rank, problem.form) == (2, 2, (0, 1), "fused")
    assert [(b.source, b.target, b.shape, b.dtype, b.bytes) for b in problem.boundaries] == [
        (0, 1, (2, 4), "float64", 64)
    ]
    assert load_schedule("dump.json") == schedule
    assert load_problem("dump.json") == problem
    assert sv.load(write(dump(), "dump")) == (schedule, problem)


def test_placement_and_form_are_those_of_the_job() -> None:
    data = dump(["0F0 1F0 1I0 1W0 0I0 0W0"])
    data["ranks"][0]["stages"] = {"0": [], "1": []}
    _, problem = sv.load(write(data))
    assert (problem.owner_rank, problem.form, problem.boundaries, problem.microbatches) == ((0, 0), "split", (), 2)
    data = dump(["1F0 1F1", "0F0 0F1"])
    data["ranks"][0]["stages"], data["ranks"][1]["stages"] = {"1": []}, {"0": []}
    _, problem = sv.load(write(data))
    assert (problem.owner_rank, problem.form) == ((1, 0), "inference")


def test_a_micro_batch_that_no_rank_runs_is_noticed(capsys: pytest.CaptureFixture[str]) -> None:
    data = dump()
    data["microbatches"] = 3
    assert main(["verify", write(data), "--select", "SV103"]) == 1
    assert "0F2 stands nowhere" in capsys.readouterr().out


def test_one_command_names_the_cycle(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["verify", write(dump(HUNG)), "--discipline", "pair"]) == 1
    told = capsys.readouterr()
    assert "SV304 rank 0 waits at position 3 (0RECV_B0) for 1SEND_B0; rank 1 waits at position 2 (1RECV_F1)" in told.out
    assert "no problem is given" not in told.err


def test_every_command_that_takes_a_schedule_takes_a_dump(capsys: pytest.CaptureFixture[str]) -> None:
    write(dump())
    for words in ("simulate dump.json", "draw dump.json", "lint dump.json", "lower dump.json --again -o again.txt",
                  "convert dump.json order.txt", "convert dump.json order.csv", "convert dump.json plan.json",
                  "verify dump.json --problem dump.json", "verify order.txt --problem dump.json",
                  "verify again.txt --problem dump.json", "verify plan.json"):  # fmt: skip
        assert main(words.split()) == 0, words
    assert Schedule.parse(Path("order.txt").read_text(encoding="utf-8")).strings() == [row.split() for row in ORDERS]
    assert "note: no problem is given" not in capsys.readouterr().err.replace("verify", "")
    assert main(["generate", "1f1b", "--problem", "dump.json"]) == 0
    assert main(["conform", "dump.json", "trace.json"]) == 2


def test_with_a_problem_it_is_its_schedule_alone(capsys: pytest.CaptureFixture[str]) -> None:
    write(dump())
    Path("p.toml").write_text("ranks = 2\nmicrobatches = 2\n[costs]\nforward = 5\nbackward = 7\n", encoding="utf-8")
    assert main(["verify", "dump.json", "-p", "p.toml", "--format", "json"]) == 0
    assert json.loads(capsys.readouterr().out)["measures"]["makespan"] > 30
    Path("p.toml").write_text("ranks = 3\nmicrobatches = 2\n[costs]\nforward = 5\nbackward = 7\n", encoding="utf-8")
    assert main(["verify", "dump.json", "-p", "p.toml"]) == 2
    assert "2 rows, the problem 3 ranks" in capsys.readouterr().err


def put(path: str, value: Any) -> Callable[[Data], None]:
    """Return what puts a value at a path of keys in a dump; ``...`` takes the key away."""

    def change(data: Data) -> None:
        *way, last = [int(key) if key.isdigit() and key not in "01" else key for key in path.split("/")]
        for key in way:
            data = data[int(key)] if isinstance(data, list) else data[key]
        if value is ...:
            del data[last]
        else:
            data[int(last) if isinstance(data, list) else last] = value

    return change


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("dump", 2, "dump: expected 1, found 2 (a newer schedverify wrote it"),
        ("class", ..., "class: missing (dump_schedule writes whole dumps)"),
        ("clas", 1, "clas: unknown key (did you mean 'class'?)"),
        ("ranks", [], "ranks: expected a list with an object for each rank, found a list"),
        ("ranks/0", 7, "ranks[0]: expected an object, found 7"),
        ("ranks/0/order", "0F0", "ranks[0].order: expected a list of steps, found '0F0'"),
        ("ranks/1/order/2", "1B0junk", "ranks[1].order[2]: '1B0junk' is no operation"),
        ("ranks/1/order/2", 7, "ranks[1].order[2]: "),
        ("ranks/0/stages", [0], "ranks[0].stages: expected an object with a key for each stage, found a list"),
        ("ranks/0/stages/x", [], "ranks[0].stages.x: expected the number of a stage"),
        ("ranks/0/stages/1", [], "ranks[1].stages.1: stage 1 is on rank 0, too"),
        ("ranks/0/stages/3", [], "ranks: stage 2 is on no rank, and stage 3 is"),
        ("ranks/0/stages/0", 7, "ranks[0].stages.0: expected a list of tensors, found 7"),
        ("ranks/0/stages/0", [[4, "x", 1]], "ranks[0].stages.0[0]: expected shape, dtype and bytes"),
        ("ranks/0/stages/0", [[[-4], "x", 1]], "ranks[0].stages.0[0]: expected shape, dtype and bytes"),
        ("microbatches", "two", "microbatches: "),
        ("microbatches", 1.5, "microbatches: "),
    ],
)
def test_what_is_wrong_has_its_key(path: str, value: Any, said: str) -> None:
    data = dump()
    put(path, value)(data)
    with pytest.raises(InputError) as refused:
        sv.load(write(data))
    assert f"dump.json: {said}" in str(refused.value)
