"""PyTorch's own runtime under torch.profiler, in four processes: what its traces tell, and what they lead to."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import schedverify as sv
from schedverify.cli import main
from schedverify.conformance.observed_run import ObservedRun, best_of, observe
from schedverify.conformance.run_files import load_runs
from support.gloo_pool import GlooPool
from support.traced_jobs import STAGES, profiled

pytest.importorskip("torch", reason="torch is not installed")
pytestmark = pytest.mark.slow

RANKS, MICROBATCHES = 4, 4
SHAPE: dict[str, Any] = {"ranks": RANKS, "microbatches": MICROBATCHES, "virtual": 2}


@pytest.fixture(scope="module")
def pool() -> Iterator[GlooPool]:
    with GlooPool(RANKS) as processes:
        yield processes


def ran(pool: GlooPool, order: sv.Schedule, folder: Path) -> list[str]:
    """Run an order in torch's runtime and return the files of its traces."""
    folder.mkdir()
    text = "".join(",".join(row) + "\n" for row in order.strings())
    outcomes = pool.run(profiled, text, MICROBATCHES, str(folder), timeout=100)
    assert [(outcome.error, outcome.hung) for outcome in outcomes] == [(None, False)] * RANKS
    return [str(folder / f"rank{rank}.json.gz") for rank in range(RANKS)]


def bubble_by_hand(files: list[str], step: int) -> float:
    """Return the bubble of a profiled step; what a mark waits for ends with a receive of gloo within it."""
    worked, starts, ends = 0.0, [], []
    for file in files:
        events = [e for e in json.loads(gzip.decompress(Path(file).read_bytes()))["traceEvents"] if e["ph"] == "X"]
        whole = next(e for e in events if e["name"] == f"ProfilerStep#{step}")
        inside = [e for e in events if whole["ts"] <= e["ts"] < whole["ts"] + whole["dur"]]
        waits = [e["ts"] + e["dur"] for e in inside if e["name"] == "gloo:recv"]
        for e in inside:
            if e["name"].startswith("PP:") and e["name"][4] in "FB":
                end = e["ts"] + e["dur"]
                starts.append(max([e["ts"], *(wait for wait in waits if e["ts"] < wait < end)]))
                ends.append(end)
                worked += end - starts[-1]
    return float(1 - worked / (len(files) * (max(ends) - min(starts))))


def test_from_a_traced_run_to_a_better_one(pool: GlooPool, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = ran(pool, sv.generate("interleaved-1f1b", sv.Problem.chain(**SHAPE)), tmp_path / "first")
    found = observe(*load_runs(files))
    assert found.family == "interleaved-1f1b"
    assert (found.problem.ranks, found.problem.total_stages, len(found.makespans)) == (RANKS, STAGES, 3)
    median_step = found.spent.number + 1
    assert found.bubble == pytest.approx(bubble_by_hand(files, median_step), rel=0.05)

    problem, plan = str(tmp_path / "problem.toml"), str(tmp_path / "plan.json")
    assert main(["trace", *files, "-o", problem, "--time-limit", "0"]) == 0
    assert sv.load(problem) == found.problem
    best = best_of(found, 5)
    assert best is not None
    assert best.schedule is not None
    assert best.value is not None
    assert best.value < found.predicted.makespan, "the heavy ends leave an order that is better"
    sv.save(best, plan)

    again = ran(pool, best.schedule, tmp_path / "second")
    assert main(["conform", plan, *again]) == 0, capsys.readouterr().out
    assert "the run followed the plan in 3 steps" in capsys.readouterr().out
    assert main(["conform", plan, *files]) == 1, "the first run is not one of the plan"
    capsys.readouterr()
    _tell(found, best.value, observe(*load_runs(again)), capsys)


def _tell(first: ObservedRun, best: int, second: ObservedRun, capsys: pytest.CaptureFixture[str]) -> None:
    """Print the gain, predicted and measured: a clock, which decides nothing here."""
    with capsys.disabled():
        print(f"\npredicted {first.predicted.makespan / 1000:.1f} -> {best / 1000:.1f} ms, "
              f"measured {first.measured / 1e6:.1f} -> {second.measured / 1e6:.1f} ms, "
              f"bubble {first.bubble:.3f} -> {second.bubble:.3f}")  # fmt: skip


def test_an_order_is_told_as_it_ran(pool: GlooPool, tmp_path: Path) -> None:
    order = sv.generate("looped-bfs", sv.Problem.chain(**SHAPE))
    found = observe(*load_runs(ran(pool, order, tmp_path / "run")))
    assert (found.order, found.family) == (order, "looped-bfs")
    assert max(found.errors) == 0, "one host has one clock"
