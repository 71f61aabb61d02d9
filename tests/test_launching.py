"""``schedverify.run`` and ``schedverify.profile``: what the commands of these names do, with values for their files."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import schedverify as sv
from schedverify.cli import main

ROOT = Path(__file__).parents[1]
MODEL = """
import torch
from torch import nn

def build():
    blocks = [nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2)]
    def batch(step):
        numbers = torch.Generator().manual_seed(step)
        return torch.randn(8, 6, generator=numbers), torch.zeros(8, 2)
    return blocks, batch, nn.functional.mse_loss

class Fails(nn.Module):
    def forward(self, x):
        raise ValueError("on purpose")

def fails():
    return [nn.Linear(6, 6), Fails()]
"""
PROBLEM = sv.Problem.chain(ranks=2, microbatches=4)
PLAN = sv.plan_of(sv.generate("1f1b", PROBLEM), PROBLEM)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and a plan of two ranks."""
    pytest.importorskip("torch", reason="torch is not installed")
    (tmp_path / "launched.py").write_text(MODEL, encoding="utf-8")
    sv.save(PLAN, tmp_path / "plan.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    sys.modules.pop("launched", None)
    return tmp_path


def test_a_plan_and_its_file_run_alike_and_as_the_command_prints(
    desk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seen: list[tuple[int, float]] = []
    losses = sv.run(PLAN, "launched:build", steps=2, trace=desk / "run.json", progress=lambda *done: seen.append(done))
    assert seen == list(enumerate(losses))
    assert len(set(losses)) == 2
    assert sv.conform(PLAN, sv.conformance.load_run(desk / "run.json")).ok
    assert sv.run("plan.json", "launched:build", steps=2) == losses
    assert main(["run", "plan.json", "--model", "launched:build", "--steps", "2"]) == 0
    assert capsys.readouterr().out == "".join(f"step {step} loss {loss:.8f}\n" for step, loss in seen)


def test_inference_has_no_losses(desk: Path) -> None:
    problem = sv.Problem.chain(ranks=1, microbatches=4, form="inference")
    plan = sv.plan_of(sv.generate("gpipe", problem), problem)
    assert sv.run(plan, "launched:build", progress=lambda *_: pytest.fail("no loss is expected")) == ()


def test_a_stage_that_fails_is_named(desk: Path) -> None:
    with pytest.raises(sv.runner.RunError, match=r"rank 1, position 1 \(1F0\): ValueError: on purpose"):
        sv.run(PLAN, "launched:fails")


def test_a_run_under_torchrun_has_its_losses_on_every_rank(desk: Path) -> None:
    code = "import schedverify as sv\nprint(repr(sv.run('plan.json', 'launched:build', steps=2)) + '\\n', end='')\n"
    (desk / "script.py").write_text(code, encoding="utf-8")
    line = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "--standalone", "script.py"]
    done = subprocess.run(line, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == 2 * [repr(sv.run(PLAN, "launched:build", steps=2))]


def test_a_profile_of_this_process_and_of_two(desk: Path) -> None:
    rounds: list[tuple[int, int]] = []
    for ranks in (None, 2):
        found = sv.profile(
            "launched:build",
            microbatches=2,
            ranks=ranks,
            rounds=2,
            warmup=1,
            progress=lambda *done: rounds.append(done),
        )
        assert found is not None
        assert (found.ranks, found.rows, found.rounds, len(found.links)) == (ranks or 1, 4, 2, 1 if ranks else 0)
        assert [layer.name for layer in found.as_model().layers] == ["0", "1", "2"]
    assert rounds == [(1, 3), (2, 3), (3, 3)] * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sv.run(PLAN, "m:f", steps=0), r"steps: 0 is too small \(at least 1\)"),
        (lambda: sv.run(PLAN, "m:f", learning_rate=-1), "learning_rate: -1 is too small"),
        (lambda: sv.run(PLAN, "m:f", timeout=0), "timeout: 0 is too small"),
        (lambda: sv.run(PLAN, "m:f", backend="mpi"), "backend: 'mpi' is no backend"),
        (lambda: sv.profile("m:f", ranks=0), "ranks: 0 is too small"),
        (lambda: sv.profile("m:f", rounds=0, microbatches=0), "microbatches: 0 is too small"),
        (lambda: sv.profile("m:f", timeout=0), "timeout: 0 is too small"),
    ],
)
def test_what_is_wrong_is_told_before_torch_is_loaded(call: Callable[[], object], message: str) -> None:
    with pytest.raises(sv.InputError, match=message):
        call()


def test_a_file_without_a_plan_is_refused(desk: Path) -> None:
    sv.save(sv.generate("1f1b", PROBLEM), "order.txt")
    with pytest.raises(sv.InputError, match=r"order.txt: a schedule, where a plan is expected"):
        sv.run("order.txt", "launched:build")
    with pytest.raises(sv.InputError, match="names no function"):
        sv.profile("launched")


def test_a_plan_that_is_not_lowered_is_refused(desk: Path) -> None:
    with pytest.raises(sv.runner.RunError, match="the plan holds no schedule with communication"):
        sv.run(dataclasses.replace(PLAN, lowered=None), "launched:build")


@pytest.mark.parametrize("call", ["sv.run('plan.json', 'm:f')", "sv.profile('m:f')"])
def test_without_torch_an_error_says_what_to_install(call: str) -> None:
    code = (
        "import sys, schedverify as sv\nsys.modules['torch'] = None\n"
        f"try:\n    {call}\nexcept sv.InputError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == "torch: it is not installed (in a checkout of schedverify: pip install '.[torch]')\n"
