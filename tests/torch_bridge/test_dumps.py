"""The dumper in real jobs over gloo: what it writes is what each class runs, and one command judges it."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.gloo_pool import GlooPool
from support.scripts import module_at

torch = pytest.importorskip("torch", reason="torch is not installed")

import schedverify as sv  # noqa: E402
from schedverify.cli import main  # noqa: E402
from schedverify.cli.shapes import CLASSES  # noqa: E402
from schedverify.core.schedule import Schedule, is_send_wait  # noqa: E402
from schedverify.torch_bridge import torch_order, torch_problem  # noqa: E402
from support.torch_runs import batch, stage_module  # noqa: E402

ROOT = Path(__file__).parents[2]
DUMPER = ROOT / "examples" / "dump_schedule.py"
IN_A_V = ("ZBVZeroBubble", "DualPipeV")
BY_HAND = ("1F1B", "GPipe", "ForwardOnly")
RANKS, MICROBATCHES = 2, 4


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(RANKS) as two:
        yield two


def dumper() -> Any:
    return module_at(DUMPER, "dump_schedule").dump_schedule


def made(rank: int, name: str, loss: bool = True, ranks: int = RANKS) -> Any:
    """Return an object of a class on real stages."""
    from torch.distributed.pipelining import PipelineStage, schedules

    virtual = 1 if name in BY_HAND else 2
    stages = ranks * virtual
    own = [rank, stages - 1 - rank] if name in IN_A_V else list(range(rank, stages, ranks))
    built = [PipelineStage(stage_module(stage), stage, stages, torch.device("cpu")) for stage in own]
    keys = {"loss_fn": torch.nn.functional.mse_loss} if loss and name != "ForwardOnly" else {}
    kind = getattr(schedules, f"Schedule{name}", None) or getattr(schedules, f"_Schedule{name}")
    return kind(built[0] if virtual == 1 else built, MICROBATCHES, **keys)


def dump_all(rank: int, folder: str) -> None:
    """Dump every class; the first of each kind once more behind a step, when the shapes are known."""
    dump = dumper()
    for name in CLASSES:
        dump(made(rank, name), f"{folder}/{name}.json")
    inputs, targets = batch(MICROBATCHES)
    for name in ("1F1B", "Interleaved1F1B"):
        live = made(rank, name)
        last = rank == RANKS - 1
        live.step(*([inputs] if rank == 0 else []), target=targets if last else None)
        dump(live, f"{folder}/{name}-behind.json")
    dump(made(rank, "1F1B", loss=False), f"{folder}/1F1B-forward.json")


def dump_patched(rank: int, folder: str) -> None:
    """Dump an order in which the last rank waits for what the first one sends behind what it waits for itself."""
    live = made(rank, "Interleaved1F1B")
    row = live.pipeline_order_with_comms[rank]
    if rank == 1:
        first = next(
            number for number, action in enumerate(row) if "SEND_F" in str(action) and "WAIT" not in str(action)
        )
        receive = next(number for number, action in enumerate(row) if number > first and "RECV_F" in str(action))
        row.insert(first, row.pop(receive))
    dumper()(live, f"{folder}/patched.json")


def hang(rank: int, folder: str) -> None:
    """Dump and run an order in which the last of four ranks sends its first gradients behind its last forward."""
    live = made(rank, "Interleaved1F1B", ranks=4)
    row = live.pipeline_order_with_comms[rank]
    if rank == 3:
        end = next(position for position, action in enumerate(row) if str(action) == "7F3") + 1
        late = [action for action in row[:end] if str(action).startswith(("7SEND_B", "7WAIT_SEND_B"))]
        row[:end] = [action for action in row[:end] if action not in late] + late
    dumper()(live, f"{folder}/hung.json")
    inputs, targets = batch(MICROBATCHES)
    live.step(*([inputs] if rank == 0 else []), target=targets if rank == 3 else None)


def ended(pool: GlooPool, job: Any, folder: Path) -> Path:
    outcomes = pool.run(job, str(folder), timeout=120)
    assert [(outcome.error, outcome.hung) for outcome in outcomes] == [(None, False)] * RANKS
    return folder


@pytest.fixture(scope="module")
def dumps(pool: GlooPool, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return ended(pool, dump_all, tmp_path_factory.mktemp("dumps"))


def without_waits(schedule: Schedule) -> Schedule:
    return Schedule([row[~is_send_wait(row)] for row in schedule.rows])


def test_every_class_as_it_runs(dumps: Path) -> None:
    for name in CLASSES:
        shape = {"ranks": RANKS, "microbatches": MICROBATCHES, "virtual": 1 if name in BY_HAND else 2}
        schedule, problem = sv.load(dumps / f"{name}.json")
        wanted = torch_order(name, **shape, lowered=True)
        assert (without_waits(schedule) == without_waits(wanted)) if name in BY_HAND else (schedule == wanted), name
        assert problem == torch_problem(name, **shape), name
        assert main(["verify", str(dumps / f"{name}.json"), "--discipline", "edge"]) == 0
    for name in ("1F1B", "Interleaved1F1B"):
        behind = sv.load(dumps / f"{name}-behind.json")
        assert behind.schedule == sv.load(dumps / f"{name}.json").schedule
        stages = behind.problem.stages
        assert [(each.source, each.target) for each in behind.problem.boundaries] == list(
            itertools.pairwise(range(stages))
        )
        assert {each.dtype for each in behind.problem.boundaries} == {"float64"}
        assert main(["verify", str(dumps / f"{name}-behind.json"), "--discipline", "block"]) == 0
    forward = sv.load(dumps / "1F1B-forward.json")
    assert forward.problem.form == "inference"
    assert sv.verify(forward.schedule, forward.problem, discipline="block").ok


def test_every_send_of_a_loop_is_waited_for_once(dumps: Path) -> None:
    for name in BY_HAND:
        schedule = sv.load(dumps / f"{name}.json").schedule
        for row in schedule.strings():
            text = " ".join(row)
            sends = re.findall(r"(?<![0-9])[0-9]+SEND_[FB][0-9]+", text)
            waits = re.findall(r"[0-9]+WAIT_SEND_[FB][0-9]+", text)
            assert sorted(each.replace("SEND", "WAIT_SEND") for each in sends) == sorted(waits)


def test_from_a_patched_order_to_the_named_cycle(
    pool: GlooPool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    ended(pool, dump_patched, tmp_path)
    assert main(["verify", str(tmp_path / "patched.json"), "--discipline", "pair"]) == 1
    told = capsys.readouterr().out
    assert re.search(
        r"SV304 rank 0 waits at position \d+ \(\w+\) for \w+; rank 1 waits at position \d+ \(\w+\) for", told
    )


@pytest.mark.slow
def test_from_a_job_that_hangs_to_the_named_cycle(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with GlooPool(4) as four:
        outcomes = four.run(hang, str(tmp_path), timeout=25)
    assert all(outcome.hung for outcome in outcomes), outcomes
    assert main(["verify", str(tmp_path / "hung.json"), "--discipline", "edge"]) == 1
    told = capsys.readouterr().out
    cycle = r"SV304 rank 2 waits at position \d+ \(6B0\) for 7SEND_B0, .*; rank 3 waits at .* \(7F3\) for 6SEND_F3"
    assert re.search(cycle, " ".join(told.split())), told
    assert main(["lower", str(tmp_path / "hung.json"), "--again", "--discipline", "edge"]) == 0


def test_the_page_shows_the_dumper_as_it_is() -> None:
    page = (ROOT / "docs" / "how-to" / "dump.md").read_text(encoding="utf-8")
    assert f"```python\n{DUMPER.read_text(encoding='utf-8')}```" in page
