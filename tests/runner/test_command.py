"""The command ``run``: a model by its name, processes of this machine or of torchrun, and an end in good order."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

torch = pytest.importorskip("torch", reason="torch is not installed")

from schedverify.core.errors import InputError  # noqa: E402 - after torch is known to be there
from schedverify.core.problem import Problem  # noqa: E402
from schedverify.formats import save  # noqa: E402
from schedverify.generators import generate  # noqa: E402
from schedverify.planner.plans import plan_of  # noqa: E402
from schedverify.runner.launch.source import load_source, stages_of  # noqa: E402

ROOT = Path(__file__).parents[2]
MODEL = """
import os
import signal
import time
import torch
from torch import nn

def build():
    return nn.Sequential(*(m for _ in range(3) for m in (nn.Linear(6, 6), nn.Tanh())))

def words():
    return [nn.Embedding(11, 6), nn.Linear(6, 6), nn.Linear(6, 3)]

def whole():
    model = build()
    def batch(step):
        numbers = torch.Generator().manual_seed(step)
        return torch.randn(8, 6, generator=numbers), torch.randn(8, 6, generator=numbers)
    return model, batch, nn.functional.mse_loss

def padded():
    model = [nn.Embedding(11, 6), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 11)]
    def batch(step):
        numbers = torch.Generator().manual_seed(step)
        words, wanted = torch.randint(0, 11, (2, 8, 5), generator=numbers)
        for row in range(8):
            wanted[row, row // 2 * 2:] = -100  # the first micro-batch of four is padding
        return words, wanted
    def loss(output, target):
        each = nn.functional.cross_entropy(output.flatten(0, 1), target.flatten(), ignore_index=-100, reduction="sum")
        return each, (target != -100).sum()
    return model, batch, loss

class Skips(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(6, 6), nn.Linear(6, 6)
    def forward(self, x):
        return self.second(self.first(x)) + x

class Chain(Skips):
    def forward(self, x):
        return self.second(self.first(x))

def skips():
    return Skips()

def chain():
    return Chain()

class Halves(nn.Module):
    def forward(self, x):
        return {"ends": (x[:, :2], x[:, 4:]), "middle": x[:, 2:4].detach()}

class Joined(nn.Module):
    def forward(self, parts):
        return torch.cat([parts["ends"][0], parts["middle"], parts["ends"][1]], 1)

def shrinking():
    def batch(step):
        rows = (8, 7, 8, 5)[step]
        numbers = torch.Generator().manual_seed(step)
        return torch.randn(rows, 6, generator=numbers), torch.randn(rows, 6, generator=numbers)
    return [nn.Linear(6, 6), Halves(), Joined(), nn.Linear(6, 6)], batch, nn.functional.mse_loss

def nothing():
    return 3

class Fails(nn.Module):
    def forward(self, x):
        raise ValueError("on purpose")

class Sleeps(nn.Module):
    def forward(self, x):
        print("asleep", flush=True)
        time.sleep(600)
        return x

class Dies(nn.Module):
    def forward(self, x):
        os.kill(os.getpid(), signal.SIGKILL)

def dies():
    return [nn.Linear(6, 6), Dies()]

def fails():
    return [nn.Linear(6, 6), Fails()]

def sleeps():
    return [nn.Linear(6, 6), Sleeps()]
"""


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a model and a plan of two ranks."""
    (tmp_path / "my_model.py").write_text(MODEL)
    problem = Problem.chain(ranks=2, microbatches=4)
    save(plan_of(generate("1f1b", problem), problem), tmp_path / "plan.json")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    for name in ("RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    sys.modules.pop("my_model", None)
    return tmp_path


def run(*arguments: str, command: tuple[str, ...] = ("-m", "schedverify", "run")) -> subprocess.CompletedProcess[str]:
    line = [sys.executable, *command, *arguments]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, check=False)


def test_the_seed_is_that_of_the_weights(desk: Path) -> None:
    found = [
        run("plan.json", "--model", "my_model:whole", "--seed", seed) for seed in ("0", "1", "18446744073709551616")
    ]
    (first,), (second,) = (losses(each.stdout.splitlines()) for each in found[:2])
    assert first == pytest.approx(losses(one_process(1, 0.0))[0], rel=1e-5)
    assert abs(second - first) > 1e-4
    assert (found[2].returncode, found[2].stdout) == (2, "")
    assert "seed: 18446744073709551616 is too large (below 2^64)" in found[2].stderr


def one_process(steps: int, rate: float, name: str = "whole") -> list[str]:
    """Return the lines that a run of a model prints, from a run in this process."""
    source = load_source(f"my_model:{name}", 4)
    model, lines = torch.nn.Sequential(*(block for _, block in source.blocks)), []
    for step in range(steps):
        inputs, targets = source.batch(step)
        model.zero_grad()
        loss = source.loss(model(inputs), targets)
        loss = loss[0] / loss[1] if isinstance(loss, tuple) else loss
        loss.backward()
        lines.append(f"step {step} loss {loss.item():.8f}")
        with torch.no_grad():
            for weight in model.parameters():
                weight.sub_(weight.grad, alpha=rate)
    return lines


def losses(lines: list[str]) -> list[float]:
    return [float(line.split()[3]) for line in lines]


@pytest.mark.parametrize("model", ["whole", "padded"])
def test_the_losses_are_those_of_one_process(desk: Path, model: str) -> None:
    done = run("plan.json", "--model", f"my_model:{model}", "--steps", "3", "--learning-rate", "0.1")
    assert done.returncode == 0, done.stderr
    lines, expected = done.stdout.splitlines(), one_process(3, 0.1, model)
    assert [line.split()[:3] for line in lines] == [line.split()[:3] for line in expected]
    assert losses(lines) == pytest.approx(losses(expected), rel=1e-5)
    assert losses(lines)[0] != losses(lines)[1]


def test_a_batch_may_have_fewer_rows_and_blocks_may_give_dicts(desk: Path) -> None:
    done = run("plan.json", "--model", "my_model:shrinking", "--steps", "4", "--learning-rate", "0.1")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert losses(lines) == pytest.approx(losses(one_process(4, 0.1, "shrinking")), rel=1e-5)


def test_torchrun_starts_the_same(desk: Path) -> None:
    command = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "schedverify.runner")
    done = run("plan.json", "--model", "my_model:whole", command=command)
    assert done.returncode == 0, done.stderr
    assert losses(done.stdout.splitlines()) == pytest.approx(losses(one_process(1, 0)), rel=1e-5)


ENDING = """
import os
from pathlib import Path
from schedverify.profiling.blocks import LiveStorages
from schedverify.runner.launch.processes import join_torchrun

class Holder:
    pass

def job(listen):
    import torch
    import torch.distributed as dist
    holder = Holder()
    holder.itself, holder.group = holder, dist.group.WORLD
    with LiveStorages():
        torch.ones(2) + 1
    dist.barrier()

join_torchrun("gloo", job, print)
print([path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")])
"""


def test_under_torchrun_no_thread_of_a_process_group_outlives_it(desk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Such a thread may end the process by SIGABRT, while the interpreter ends."""
    for name, value in {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "localhost", "MASTER_PORT": "0"}.items():
        monkeypatch.setenv(name, value)
    done = run(command=("-c", ENDING))
    assert done.returncode == 0, done.stderr
    assert "gloo" not in done.stdout


def test_a_stage_that_fails_ends_all_and_is_named(desk: Path) -> None:
    done = run("plan.json", "--model", "my_model:fails")
    assert done.returncode == 1
    assert "rank 1, position 1 (1F0): ValueError: on purpose" in done.stderr
    assert not left_over(desk)


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_all_and_is_named(desk: Path) -> None:
    done = run("plan.json", "--model", "my_model:dies")
    assert done.returncode == 1
    assert "rank 1: the process was ended by SIGKILL" in done.stderr
    assert "rank 0, position " in done.stderr
    assert "peer rank 1: the peer is gone" in done.stderr
    assert not left_over(desk)


@pytest.mark.slow
def test_a_rank_that_sleeps_is_waited_for_no_longer_than_the_timeout(desk: Path) -> None:
    done = run("plan.json", "--model", "my_model:sleeps", "--timeout", "8")
    assert done.returncode == 1
    assert "peer rank 1: no end within 8 s" in done.stderr
    assert "rank 1: the process was ended by SIGTERM" in done.stderr
    assert not left_over(desk)


def test_sigterm_ends_all(desk: Path) -> None:
    line = [sys.executable, "-m", "schedverify", "run", "plan.json", "--model", "my_model:sleeps"]
    with subprocess.Popen(line, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"asleep\n"
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) != 0
    assert not left_over(desk)


def left_over(desk: Path) -> list[psutil.Process]:
    """Return the processes of this run, by the folder that they run in; they end within a moment."""

    def found() -> list[psutil.Process]:
        processes = []
        for process in psutil.process_iter():
            try:
                if process.pid != os.getpid() and process.cwd() == str(desk) and process.status() != "zombie":
                    processes.append(process)
            except psutil.Error:
                continue
        return processes

    deadline = time.monotonic() + 5
    while (processes := found()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return processes


@pytest.mark.parametrize(
    ("plan", "model", "code", "told"),
    [
        ("absent.json", "my_model:build", 2, "absent.json: no such file"),
        ("order.txt", "my_model:build", 2, "order.txt: a schedule, where a plan is expected"),
        ("changed.json", "my_model:build", 2, "changed.json: digest:"),
        ("plan.json", "my_model:biuld", 2, "model: module my_model has no function 'biuld'"),
        ("wide.json", "my_model:chain", 2, "model: 2 layers cannot fill 3 stages"),
    ],
)
def test_what_is_wrong_is_told(desk: Path, plan: str, model: str, code: int, told: str) -> None:
    (desk / "order.txt").write_text("0F0 0B0\n1F0 1B0\n")
    (desk / "changed.json").write_text((desk / "plan.json").read_text().replace('"seed":0', '"seed":1'))
    wide = Problem.chain(ranks=3, microbatches=2)
    save(plan_of(generate("1f1b", wide), wide), desk / "wide.json")
    done = run(plan, "--model", model)
    assert (done.returncode, told in done.stderr) == (code, True), done.stderr


class TestSource:
    def test_batches_are_drawn_by_the_first_layer(self, desk: Path) -> None:
        inputs, _ = load_source("my_model:build", 4).batch(0)
        assert inputs.shape == (16, 6)
        words, _ = load_source("my_model:words", 4).batch(0)
        assert words.dtype == torch.int64
        assert 0 <= int(words.min()) <= int(words.max()) <= 10

    @pytest.mark.parametrize(
        ("model", "told"),
        [
            ("my_model", r"model: 'my_model' names no function \(such as my_model:build\)"),
            ("my_modl:build", "model: there is no module 'my_modl'"),
            ("my_model:nothing", "model: my_model:nothing returns int"),
            ("my_model:skips", "returns a Skips that is not its children one after the other"),
        ],
    )
    def test_what_is_no_model_is_told(self, desk: Path, model: str, told: str) -> None:
        with pytest.raises(InputError, match=told):
            load_source(model, 4)

    def test_code_of_the_user_that_fails_is_told_with_its_line(self, desk: Path) -> None:
        (desk / "no_model.py").write_text("def build():\n    return 1 / 0\n")
        (desk / "no_module.py").write_text("\nraise ValueError('no')\n")
        (desk / "no_python.py").write_text("def build(:\n")
        for name, told in [
            ("no_model", r"no_model:build fails: ZeroDivisionError: division by zero \(no_model.py, line 2\)"),
            ("no_module", r"import no_module fails: ValueError: no \(no_module.py, line 2\)"),
            ("no_python", r"import no_python fails: SyntaxError: .* \(no_python.py, line 1\)"),
        ]:
            with pytest.raises(InputError, match=told):
                load_source(f"{name}:build", 2)

    def test_a_module_whose_children_run_in_order_is_cut(self, desk: Path) -> None:
        assert [name for name, _ in load_source("my_model:chain", 2).blocks] == ["first", "second"]

    def test_blocks_are_cut_evenly_or_by_the_partition(self, desk: Path) -> None:
        import dataclasses

        problem = Problem.chain(ranks=2, microbatches=2)
        plan = plan_of(generate("1f1b", problem), problem)
        blocks = load_source("my_model:words", 2).blocks
        assert [len(stages_of(plan, blocks, rank)[rank]) for rank in (0, 1)] == [2, 1]
        cut = Problem.chain(ranks=2, microbatches=2, partition=[["0"], ["1", "2"]])
        named = plan_of(generate("1f1b", cut), cut)
        assert [len(stages_of(named, blocks, rank)[rank]) for rank in (0, 1)] == [1, 2]
        other = dataclasses.replace(plan, partition=(("a",), ("b", "c")))
        assert [len(stages_of(other, blocks, rank)[rank]) for rank in (0, 1)] == [1, 2]
        for wrong in ((("1",), ("0", "2")), (("0",), ("2", "1")), (("0",), ("0", "2")), (("a",), ("a", "b")),
                      (("a",), ("0", "b"))):  # fmt: skip
            with pytest.raises(
                InputError, match=r"partition: the plan's partition \[\['.*has '.' where the model has '.'"
            ):
                stages_of(dataclasses.replace(plan, partition=wrong), blocks, 0)
        with pytest.raises(InputError, match="3 blocks, where the plan's partition has 2 layers"):
            stages_of(dataclasses.replace(plan, partition=(("a",), ("b",))), blocks, 0)


def test_what_ranks_repeat_of_each_other_is_told_once_and_the_cause_first() -> None:
    from schedverify.runner.failures import merged, without_repeats

    cause, waits = "rank 2, position 1 (2F0): ValueError: no", "rank 1, position 3 (1RECV_B0<2), peer rank 2: gone"
    last = "rank 0, position 4 (0RECV_B0<1), peer rank 1: gone"
    failures = {0: f"{last}\nended by {waits}\nended by {cause}", 1: f"{waits}\nended by {cause}", 2: cause}
    assert merged(without_repeats(failures)) == [cause, last, waits]
    alone = {0: f"{last}\nended by {waits}", 1: "the process was ended by SIGKILL"}
    assert merged(without_repeats(alone)) == [f"{last}\nended by {waits}", "rank 1: the process was ended by SIGKILL"]
