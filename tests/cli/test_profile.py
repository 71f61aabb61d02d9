"""The command ``profile``: what it measures goes on to a plan and a run; what fails is named."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from torch import nn  # noqa: E402

from schedverify.cli import main  # noqa: E402
from schedverify.formats import load  # noqa: E402
from schedverify.formats.json_toml import parse_toml  # noqa: E402
from schedverify.formats.models.model_files import load_model  # noqa: E402
from schedverify.runner.launch.source import stages_of  # noqa: E402

ROOT = Path(__file__).parents[2]
QUICK = ("--microbatches", "4", "--rounds", "3", "--warmup", "1", "--format", "json", "-o", "model.toml")
MODEL = """
import torch
from torch import nn

def build():
    blocks = [nn.Linear(6, 6), *(nn.Sequential(nn.Linear(6, 6), nn.Tanh()) for _ in range(4)), nn.Linear(6, 2)]
    def batch(step):
        return torch.ones(8, 6), torch.zeros(8, 2)
    return blocks, batch, nn.functional.mse_loss

class Fails(nn.Module):
    def forward(self, x):
        raise ValueError("on purpose")

class Unlearned(torch.autograd.Function):
    @staticmethod
    def forward(context, x):
        return x.clone()
    @staticmethod
    def backward(context, gradient):
        raise ArithmeticError("no way back")

class FailsBack(nn.Module):
    def forward(self, x):
        return Unlearned.apply(x)

class Evil(nn.Module):
    def forward(self, x):
        raise ValueError("e\\x1b[31m\\u202e\\n::error::pwned")

def evil():
    model = nn.Sequential()
    model.add_module("::error::pwned \\x1b[31m\\u202e", nn.Linear(6, 6))
    return model

def fails_evilly():
    model = nn.Sequential()
    model.add_module("n\\n::error::pwned", Evil())
    return model, lambda step: (torch.ones(8, 6), torch.zeros(8, 6)), nn.functional.mse_loss

def fails():
    return nn.Sequential(nn.Linear(6, 6), Fails())

def fails_back():
    return nn.Sequential(nn.Linear(6, 6), FailsBack())
"""


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model."""
    (tmp_path / "profiled.py").write_text(MODEL)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    sys.modules.pop("profiled", None)
    return tmp_path


def test_a_profile_goes_on_to_a_plan(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    measure = ["profile", "profiled:build", "--microbatches", "4", "--rounds", "3", "--warmup", "1"]
    assert main([*measure, "-o", "model.toml"]) == 0
    printed = capsys.readouterr().out
    assert "profiled:build: 2 rows a micro-batch; medians of 3 rounds" in printed
    model = load_model("model.toml")
    assert [layer.name for layer in model.layers] == ["0", "1", "2", "3", "4", "5"]
    assert model.split
    assert model.tick == "us"
    assert "medians of 3 rounds behind 1" in parse_toml(Path("model.toml").read_text())["source"]
    assert main(["partition", "model.toml", "--ranks", "2", "--microbatches", "4", "-o", "problem.toml"]) == 0
    assert main(["optimize", "problem.toml", "--time-limit", "2", "--workers", "1", "-o", "plan.json"]) == 0
    plan = load("plan.json")
    assert plan.problem.form == "split"
    assert [name for stage in plan.partition or () for name in stage] == [layer.name for layer in model.layers]
    named = tuple((layer.name, nn.Identity()) for layer in model.layers)
    assert sum(len(module) for rank in (0, 1) for module in stages_of(plan, named, rank).values()) == 6


def test_a_profile_as_json_without_split(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--rounds", "2", "--warmup", "0", "--fused", "--tick", "ns", "--optimizer-copies", "2"]
    assert main(["profile", "profiled:build", *options, "--format", "json", "-o", "model.json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["rows"], found["rounds"], found["ranks"], found["links"]) == (8, 2, 1, [])
    assert set(found["blocks"][0]) == {
        "name", "forward", "backward", "activation", "entry", "output", "parameters", "gradients", "buffers"
    }  # fmt: skip
    model = load_model("model.json")
    assert not model.split
    assert [layer.backward for layer in model.layers] == [block["backward"]["median"] for block in found["blocks"]]
    assert all(layer.state == 3 * layer.parameters for layer in model.layers)


@pytest.mark.parametrize("slow", [100_000, 500_000])
def test_equal_blocks_have_one_figure_and_a_busy_machine_is_told(
    slow: int, desk: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the clock of the test, of three blocks one takes long, which one changes from round to round."""
    readings = itertools.count()

    def clock() -> int:
        number = next(readings)
        return number * 100_000 + number // 2 % 3 // 2 * (number % 2) * (slow - 100_000)

    monkeypatch.setattr("schedverify.profiling.blocks._now", clock)
    options = ["--rounds", "4", "--warmup", "1", "--microbatches", "4"]
    assert main(["profile", "profiled:build", *options]) == 0
    printed, busy = capsys.readouterr(), slow > 200_000
    (line,) = [line for line in printed.out.splitlines() if line.startswith("equal")]
    assert line.startswith("equal, with one figure: 1, 2, 3, 4; medians of each, us: forward 100 to ")
    assert ("equal work differs by more than a factor of 2: the machine is busy" in printed.err) == busy
    assert main(["profile", "profiled:build", *options, "--format", "json", "-o", "model.json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["busy"] == busy
    (equal,) = found["equal"]
    assert equal["blocks"] == ["1", "2", "3", "4"]
    kinds = set(equal) - {"blocks"}
    assert kinds == {"forward", "backward", "backward_input", "backward_weight"}
    assert all(100 <= least <= most <= slow // 1000 for least, most in (equal[kind] for kind in kinds))
    times = [{kind: block[kind] for kind in kinds} for block in found["blocks"]]
    assert times[1] == times[2] == times[3] == times[4]
    assert len({(layer.forward, layer.backward) for layer in load_model("model.json").layers[1:5]}) == 1


def test_names_and_errors_of_a_model_steer_no_terminal(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", "profiled:evil", "--rounds", "1", "--warmup", "0"]) == 0
    told = [*capsys.readouterr()]
    assert main(["profile", "profiled:fails_evilly"]) == 2
    told += [*capsys.readouterr()]
    assert main(["profile", "profiled:::error::pwned\x1b"]) == 2
    assert main(["profile", "::error::pwned\n::x:\x1b"]) == 2
    told += [*capsys.readouterr()]
    assert not set("".join(told)) & set("\x1b\u202e")
    assert "\\x1b[31m\\u202e" in told[0]
    assert not [line for text in told for line in text.splitlines() if line.lstrip().startswith("::")]


@pytest.mark.parametrize(("name", "what"), [("fails", "forward"), ("fails_back", "backward, input")])
def test_a_block_that_fails_is_named(name: str, what: str, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["profile", f"profiled:{name}", "-o", "model.toml"]) == 2
    assert f"the {what} of block '1' fails: " in capsys.readouterr().err
    assert not Path("model.toml").exists()


@pytest.mark.slow
def test_what_two_processes_profiled_runs_by_its_plan(desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    done = run("profile", "profiled:build", *QUICK, "--ranks", "2")
    assert done.returncode == 0, done.stderr
    check_links(json.loads(done.stdout))
    assert main(["partition", "model.toml", "--ranks", "2", "--microbatches", "4", "-o", "problem.json"]) == 0
    assert main(["optimize", "problem.json", "--time-limit", "2", "--workers", "1", "-o", "plan.json"]) == 0
    done = run("run", "plan.json", "--model", "profiled:build", "--steps", "2")
    assert done.returncode == 0, done.stderr
    assert [text.split()[:3] for text in done.stdout.splitlines()] == [["step", "0", "loss"], ["step", "1", "loss"]]


@pytest.mark.slow
def test_links_are_measured_under_torchrun(desk: Path) -> None:
    command = ["torch.distributed.run", "--nproc-per-node", "2", "--standalone", "-m", "schedverify"]
    done = run("profile", "profiled:build", *QUICK, command=command)
    assert done.returncode == 0, done.stderr
    check_links(json.loads(done.stdout))


def run(*arguments: str, command: Sequence[str] = ("schedverify",)) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, "-m", *command, *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=200, check=False)


def check_links(found: dict[str, Any]) -> None:
    """Check what was printed of the one link between two processes, and the file beside it."""
    (link,) = found["links"]
    assert (found["ranks"], link["ranks"], link["bytes"]) == (2, [0, 1], 1 << 20)
    devices = load_model("model.toml").devices
    assert devices.latency == found["latency"] == link["short"]["median"] > 0
    assert devices.bandwidth == found["bandwidth"]


@pytest.mark.slow
def test_a_block_that_fails_in_several_processes_is_named_once(desk: Path) -> None:
    done = run("profile", "profiled:fails", "--ranks", "2")
    assert done.returncode == 2
    assert done.stderr.count("the forward of block '1' fails: ValueError: on purpose") == 1


@pytest.mark.slow
def test_a_file_that_cannot_be_written_is_told_before_the_work(desk: Path) -> None:
    done = run("profile", "profiled:build", *QUICK[:-1], "no/such/folder.toml", "--ranks", "2")
    assert done.returncode == 2
    assert not done.stdout
    assert "no/such/folder.toml: cannot be written" in done.stderr
