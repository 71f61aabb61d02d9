"""``torch:CLASS`` on the command line, and the options that name a shape."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from schedverify.cli import main
from schedverify.cli.shapes import CLASSES
from schedverify.formats import load
from schedverify.torch_bridge import torch_classes

torch = pytest.importorskip("torch", reason="torch is not installed")

SHAPE = "--ranks 2 --microbatches 3"
DEFERRED = f"torch:ZBVZeroBubble {SHAPE} --virtual 2 --lowered --defer-receives"


@pytest.fixture(autouse=True)
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def called(capsys: pytest.CaptureFixture[str], words: str) -> tuple[int, str, str]:
    code = main(words.split())
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_what_a_class_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = called(capsys, f"generate torch:LoopedBFS {SHAPE} --virtual 2")
    assert (code, printed) == (0, "0F0 0F1 0F2 2F0 2F1 2F2 2B2 2B1 2B0 0B2 0B1 0B0\n"
                                  "1F0 1F1 1F2 3F0 3F1 3F2 3B2 3B1 3B0 1B2 1B1 1B0\n")  # fmt: skip


def test_a_loop_written_by_hand_is_meant_unless_the_published_order_is(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = called(capsys, f"generate torch:Schedule1F1B {SHAPE}")
    assert (code, printed.splitlines()[1]) == (0, "1F0 1B0 1F1 1B1 1F2 1B2")
    assert called(capsys, f"generate torch:1F1B {SHAPE} --published")[1].splitlines()[1] == "1F1 1B0 1F2 1B1 1F3 1B2"
    assert called(capsys, f"verify torch:1F1B {SHAPE}")[0] == 0
    code, printed, _ = called(capsys, f"verify torch:1F1B {SHAPE} --published")
    assert code == 1
    assert "1F0 stands nowhere; stage 1 is on rank 1" in printed


def test_a_lowered_order_is_judged_with_its_communication(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, said = called(capsys, f"verify {DEFERRED} --discipline edge")
    assert code == 1
    assert printed.startswith("torch:ZBVZeroBubble: violated: SV302\n")
    assert "2RECV_B0): what arrives is 0SEND_F2" in printed
    assert "lower torch:" not in printed + said  # which takes files
    assert "no problem is given" not in said
    code, printed, _ = called(capsys, f"verify {DEFERRED} --format github")
    assert code == 1
    assert printed.startswith("::error file=torch%3AZBVZeroBubble,title=SV302::")


def test_what_was_generated_is_verified_from_its_file(capsys: pytest.CaptureFixture[str]) -> None:
    assert called(capsys, f"generate {DEFERRED} -o order.txt")[0] == 0
    assert called(capsys, f"generate {DEFERRED} -o order.csv")[0] == 0
    assert load("order.txt") == load("order.csv")
    assert called(capsys, "verify order.txt --select SV302")[0] == 1


def test_costs_and_problems(capsys: pytest.CaptureFixture[str]) -> None:
    words = f"verify torch:GPipe {SHAPE} --forward 2 --backward 3 --format json"
    assert json.loads(called(capsys, words)[1])["measures"]["makespan"] == 20
    Path("p.toml").write_text("ranks = 2\nmicrobatches = 3\n[costs]\nforward = 2\nbackward = 3\n", encoding="utf-8")
    code, printed, _ = called(capsys, "verify torch:GPipe --problem p.toml --format json")
    assert (code, json.loads(printed)["measures"]["makespan"]) == (0, 20)
    Path("v.toml").write_text(
        'ranks = 2\nmicrobatches = 4\nvirtual = 2\nplacement = "v"\n[costs]\nforward = 2\nbackward = 3\n',
        encoding="utf-8",
    )
    assert called(capsys, "generate torch:DualPipeV --problem v.toml")[0] == 0
    code, _, said = called(capsys, "generate torch:Interleaved1F1B --problem v.toml")
    assert code == 2
    assert "v.toml: placement: torch:Interleaved1F1B has its stages on ranks (0, 1, 0, 1), the problem on" in said


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("generate torch:Interleaved1F1C --ranks 2 --microbatches 3", "did you mean 'Interleaved1F1B'?"),
        ("verify torch: --ranks 2 --microbatches 3", "known: 1F1B, DualPipeV"),
        ("verify torch:GPipe --ranks 2", "verify takes --problem FILE, or --ranks P and --microbatches M"),
        ("generate torch:GPipe --ranks 0 --microbatches 3", "--ranks: expected a whole number from 1"),
        ("generate torch:1F1B --ranks 4 --microbatches 3", "Schedule1F1B refuses it: Number of microbatches (3)"),
        (
            "generate torch:GPipe --ranks 2 --microbatches 3 --virtual 2",
            "--virtual: ScheduleGPipe has one stage a rank",
        ),
        ("verify torch:GPipe --problem p.toml --ranks 2", "--ranks: stands beside --problem"),
        ("generate 1f1b --ranks 2 --microbatches 3 --lowered", "--lowered: stands beside the name of a family"),
        ("verify s.txt --defer-receives", "--defer-receives: stands beside a file"),
        ("verify s.txt --ranks 2", "--ranks: stands beside a file"),
        ("generate torch:GPipe --ranks 2 --microbatches 3 --defer-receives", "--defer-receives: ScheduleGPipe runs"),
        ("generate torch:LoopedBFS --ranks 2 --microbatches 3 --max-outstanding-sends 1", "ask for lowered, too"),
    ],
)
def test_wrong_usage(capsys: pytest.CaptureFixture[str], words: str, said: str) -> None:
    Path("p.toml").write_text("ranks = 2\nmicrobatches = 3\n[costs]\nforward = 2\nbackward = 3\n", encoding="utf-8")
    code, printed, told = called(capsys, words)
    assert (code, printed) == (2, "")
    assert said in told


def test_completion_knows_every_class() -> None:
    assert set(CLASSES) == set(torch_classes())


def test_without_torch(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else found(name, *rest)
    )
    for command in ("generate", "verify"):
        code, _, told = called(capsys, f"{command} torch:GPipe {SHAPE}")
        assert code == 2
        assert "schedverify: torch: it is not installed (" in told


def test_the_cure_of_a_class_is_a_command_that_runs(capsys: pytest.CaptureFixture[str]) -> None:
    code, printed, _ = called(capsys, f"verify {DEFERRED} --select SV304 --discipline pair")
    line = next(line for line in printed.splitlines() if line.startswith("  cure: "))
    command = line.removeprefix("  cure: ").partition(" keeps")[0]
    making, _, lowering = command.partition(" | ")
    assert (code, lowering) == (1, "schedverify lower - --again")
    assert making == f"schedverify generate torch:ZBVZeroBubble {SHAPE} --virtual 2 --lowered --defer-receives"
    assert called(capsys, making.removeprefix("schedverify "))[0] == 0
