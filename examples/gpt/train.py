"""Trains a small GPT in four processes with 1F1B, with a zero-bubble schedule, and with a plan optimized for it.

``python examples/gpt/train.py`` first profiles the stages, then plans with what they took, then trains the same model
three times. It shows that the losses are the same, what each step was predicted to take and took, and draws what really
ran. Each block pauses in F, I and W, so that ranks that share cores still look like devices; ``--pause 0`` leaves that
out.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

import model
import torch
import torch.distributed as dist
import torch.multiprocessing

import schedverify as sv
from schedverify.conformance import Conformance, RunTrace, measured_problem, timeline_of_run
from schedverify.runner import Runner, gather_trace, read_clock

RANKS, MICROBATCHES, TIMEOUT = 4, 8, 60.0
PLANS = ("1f1b", "zb-h1", "optimized")
CLOSE = 1e-4
"""The most by which losses of the same step may differ, relative: sums of float32 in another order."""


class Trained(NamedTuple):
    """The losses of a run, and on rank 0 the trace of all ranks."""

    losses: list[float]
    trace: RunTrace | None


def main() -> int:
    """Start the processes; the first of them tells."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--steps", type=int, default=10, help="of training, with each plan")
    parser.add_argument("--pause", type=float, default=6, help="milliseconds that each block pauses in each of F, I, W")
    parser.add_argument("--seconds", type=float, default=5, help="time limit of the search")
    parser.add_argument("--out", type=Path, default=Path("gpt-run"), help="folder for plans and pictures")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(rank_main, (f"{folder}/store", chosen), nprocs=RANKS)
    return 0


def rank_main(rank: int, store: str, chosen: argparse.Namespace) -> None:
    """Be one rank: profile, plan on rank 0, train with each plan."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    met = dist.FileStore(store, RANKS)
    dist.init_process_group("gloo", store=met, rank=rank, world_size=RANKS, timeout=timedelta(seconds=TIMEOUT))
    problem = sv.Problem.chain(ranks=RANKS, microbatches=MICROBATCHES, form="split", in_flight=RANKS)
    first = sv.plan_of(sv.generate("zb-h1", problem), problem)
    profiled = train(first, rank, 3, chosen.pause)
    if profiled.trace:
        make_plans(measured_problem(problem, profiled.trace), chosen)
    dist.barrier()
    plans = {name: sv.load(chosen.out / f"{name}.plan.json") for name in PLANS}
    runs = {name: train(plan, rank, chosen.steps, chosen.pause) for name, plan in plans.items()}
    dist.destroy_process_group()
    if rank == 0:
        tell(plans, runs, chosen.out)


def make_plans(problem: sv.Problem, chosen: argparse.Namespace) -> None:
    """Save three plans for the costs that were measured; every rank reads, verifies and runs them."""
    plans = {name: sv.plan_of(sv.generate(name, problem), problem) for name in PLANS[:2]}
    plans[PLANS[2]] = sv.optimize(problem, time_limit=chosen.seconds, workers=1)
    for name, plan in plans.items():
        sv.save(plan, chosen.out / f"{name}.plan.json")


def train(plan: sv.Plan, rank: int, steps: int, pause: float) -> Trained:
    """Train the model anew with a plan."""
    stage = model.stage(rank, pause / 1000)
    optimizer = torch.optim.SGD(stage.parameters(), lr=0.2)
    runner = Runner(plan, [stage], model.loss, timeout=TIMEOUT, optimizer=stepping(optimizer))
    before, losses, ran = read_clock(runner.control, TIMEOUT), [], []
    for step in range(steps):
        result = runner.step(*model.batch(step, MICROBATCHES))
        losses.append(runner.whole_loss(result))
        ran.append(result.ran)
    readings = before, read_clock(runner.control, TIMEOUT)
    return Trained(losses, gather_trace(sv.plan_digest(plan), ran, readings, runner.control, TIMEOUT))


def stepping(optimizer: Any) -> Callable[[], None]:
    """Return what the runner calls when gradients are whole."""

    def step() -> None:
        optimizer.step()
        optimizer.zero_grad()

    return step


def tell(plans: dict[str, sv.Plan], runs: dict[str, Trained], out: Path) -> None:
    """Print the losses and a line for each plan, draw what ran, and stop where anything is not as it was proved."""
    print("step   " + "".join(f"{name:>12}" for name in runs))
    for step, losses in enumerate(zip(*(run.losses for run in runs.values()), strict=True)):
        print(f"{step:4}   " + "".join(f"{loss:12.6f}" for loss in losses))
        if max(losses) - min(losses) > CLOSE * max(losses):
            raise SystemExit(f"the losses of step {step} differ")
    print("the losses are the same\n\nplan       predicted ms  measured ms  ratio  bubble  peak in flight")
    pictures = []
    for name, trace in ((name, run.trace) for name, run in runs.items() if run.trace):
        found = sv.conform(plans[name], trace)
        print(line(name, found))
        if not found.ok:
            raise SystemExit("\n".join(map(str, found.departures)))
        middle = sorted(range(len(found.makespans)), key=found.makespans.__getitem__)[len(found.makespans) // 2]
        pictures.append(sv.draw(timeline_of_run(plans[name], trace, middle), title=f"{name}, microseconds"))
    sv.beside(*pictures).save(out / "what-ran.svg")
    print(f"every run followed its plan; {out / 'what-ran.svg'} shows the median step of each")


def line(name: str, found: Conformance) -> str:
    """Return a plan's line: its makespan by the profiled costs, and the median of the steps."""
    predicted, measured = found.planned or found.predicted, found.measured
    peaks = " ".join(map(str, found.peaks))
    times = f"{predicted / 1e6:12.1f}  {measured / 1e6:11.1f}  {measured / predicted:5.2f}"
    return f"{name:<10} {times}  {found.bubble:6.3f}  {peaks}"


if __name__ == "__main__":
    sys.exit(main())
