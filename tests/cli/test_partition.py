"""The command ``partition``: apart from the schedule, with it, for a cluster; and what it refuses."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from schedverify.cli import main

Capture = pytest.CaptureFixture[str]
MODEL = 'tick = "us"\n[[layer]]\nname = "block"\nrepeat = 4\nforward = 2\nbackward = 4\nparameters = 10\n'


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("m.toml").write_text(MODEL)
    Path("c.toml").write_text('nodes = 1\ndevices = 8\nbatch = 8\n[device]\nlike = "a100-80gb"\n')
    return tmp_path


def test_equal_layers_are_cut_in_the_middle(desk: Path, capsys: Capture) -> None:
    """Two layers a stage take 12 us a micro-batch; 1F1B of 8 on 2 ranks takes (8 + 1) times as long."""
    assert main(["partition", "m.toml", "--ranks", "2", "-o", "p.toml"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == [
        "    0     0       2        4         8  block0 to block1",
        "    1     1       2        4         8  block2 to block3",
    ]
    assert lines[3] == "busiest rank or link: 12 us a micro-batch (no partition has less)"
    assert lines[5:7] == [
        "1f1b, 8 micro-batches: makespan 108 us",
        "with as many layers on each stage: 108 us",
    ]
    assert main(["generate", "1f1b", "-p", "p.toml"]) == 0


def test_with_the_schedule_the_best_of_all_is_proved(desk: Path, capsys: Capture) -> None:
    command = ["partition", "m.toml", "--ranks", "2", "--joint", "--microbatches", "2", "--workers", "1"]
    assert main([*command, "--plan", "plan.json"]) == 0
    out = capsys.readouterr().out
    assert "makespan 36 us: no partition has a schedule with less" in out
    assert "partition first, schedule second: 36 us, no more" in out
    assert main(["verify", "plan.json"]) == 0
    capsys.readouterr()
    assert main([*command, "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["value"], data["bound"], data["gap"], data["partitions"]) == (36, 36, 0, 3)
    assert data["layers"] == [["block0", "block1"], ["block2", "block3"]]


def test_a_cluster_gets_a_table_and_reasons(desk: Path, capsys: Capture) -> None:
    command = ["partition", "llama-2-7b", "--cluster", "c.toml", "--sequence", "2048", "--top", "2"]
    assert main(command) == 0
    head, *rows = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["tensor", "pipeline", "data", "virtual"]
    assert [len(row.split()) for row in rows[:2]] == [13, 13]
    assert "more take longer" in rows[2]
    assert main([*command, "--format", "json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [len(data["ranked"]), set(data)] == [2, {"ranked", "rejected", "slower"}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "--ranks: missing"),
        (["--ranks", "2", "--plan", "p.json"], "--plan: stands without --joint"),
        (["--cluster", "c.toml", "--family", "1f1b"], "--family: does not go with --cluster"),
    ],
)
def test_options_that_do_not_go_together_are_refused(
    options: list[str], message: str, desk: Path, capsys: Capture
) -> None:
    assert main(["partition", "m.toml", *options]) == 2
    assert message in capsys.readouterr().err
