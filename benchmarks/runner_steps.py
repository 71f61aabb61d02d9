"""The runner's steps: what they take beside what their plans predict, and each action beside PyTorch's runtime.

``python benchmarks/runner_steps.py`` trains stages that sleep 20 ms in each of F, I and W on 4 and 8 ranks, processes
of this machine over gloo: with 1F1B, with a split backward as in zero-bubble, and with an optimized plan without a
limit of memory. Then it runs one plan, of stages that compute next to nothing, in our runner and in PyTorch's, by turns
in the same processes, on one rank and on two; and plans of stages that are each a layer of a transformer of width 64.

For the latter each rank has a core of its own, and gloo's thread of the connections does not preempt it
(``SCHED_BATCH``), for both runtimes alike: that thread spins while the rank holds the lock of a connection, and on one
core the rank cannot go on until the scheduler's next tick. ``--unbound`` leaves the scheduling as it is.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

from printing import progress, publish, table, where

from schedverify import Problem, Schedule, generate, optimize
from schedverify.core.result import Plan
from schedverify.planner.plans import plan_of

ROWS, WIDTH = 2, 8
LINEAR, WIDER, LAYER = "linear 8", "linear 64", "layer 64"
"""What a stage is, with its width: a linear layer and tanh, or a transformer's layer of 16 tokens a row."""
SMALL = {
    (1, 1): {LINEAR: ("1f1b", "zb-h1")},
    (1, 4): {LINEAR: ("split",)},
    (2, 2): dict.fromkeys((LINEAR, WIDER, LAYER), ("1f1b", "zb-h1")),
    (2, 4): {LINEAR: ("interleaved-1f1b", "zb-v"), WIDER: ("interleaved-1f1b",), LAYER: ("interleaved-1f1b",)},
}
"""By ranks and stages, then by what a stage is, the plans that are run in both runtimes."""
Span = tuple[int, int]


def main() -> None:
    """Measure both and print a table for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--ranks", type=int, nargs="*", default=(4, 8), help="ranks of the stages that sleep")
    parser.add_argument("--ms", type=int, default=20, help="how long F, I and W sleep each")
    parser.add_argument("--steps", type=int, default=5, help="steps of each plan, behind one that does not count")
    parser.add_argument("--turns", type=int, default=100, help="steps in each of the two runtimes")
    parser.add_argument("--seconds", type=float, default=10, help="time limit of each search")
    parser.add_argument(
        "--unbound", action="store_true", help="leave cores and scheduling as they are; binding needs Linux"
    )
    parser.add_argument("--update", action="store_true", help="put what is printed into docs/benchmarks.md")
    chosen = parser.parse_args()
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    with progress() as bar:
        slept = list(bar.track(steps(chosen), 3 * len(chosen.ranks), description="stages that sleep"))
        count = sum(len(names) for kinds in SMALL.values() for names in kinds.values())
        ran = list(bar.track(overheads(chosen.turns, bound=not chosen.unbound), count, description="overhead"))
    bound = "scheduled as it comes" if chosen.unbound else "each rank on a core of its own"
    text = f"""{where("torch", "ortools")}; seed 0 of the search.

Stages that sleep {chosen.ms} ms in each of F, I and W, two micro-batches a rank; medians of {chosen.steps} steps, from
the first rank's begin to the last one's end:

{table(("plan", "ranks", "predicted, ms", "measured, ms", "measured over predicted"), slept)}

Stages that compute next to nothing or little, medians of {chosen.turns} steps in each runtime, by turns, {bound};
microseconds for each action of a rank, sends and receives counted:

{table(("plan", "ranks", "stages", "each", "actions", "ours, us", "PyTorch, us", "ratio"), ran)}"""
    publish("runner-steps", text, update=chosen.update)


def steps(chosen: argparse.Namespace) -> Iterator[tuple[object, ...]]:
    """Yield a line for each plan of stages that sleep."""
    from support.gloo_pool import GlooPool

    for ranks in chosen.ranks:
        with GlooPool(ranks) as pool:
            for name, plan in plans(ranks, chosen.ms, chosen.seconds):
                spans = values(pool, asleep, plan, chosen.ms / 1000, chosen.steps)
                predicted, measured = plan.measures.makespan, median(map(whole, zip(*spans, strict=True))) / 1e6
                yield name, ranks, predicted, f"{measured:.0f}", f"{measured / predicted:.3f}"


def plans(ranks: int, ms: int, seconds: float) -> Iterator[tuple[str, Plan]]:
    """Yield the plans by name; a tick is a millisecond."""
    problem = Problem.chain(
        ranks=ranks, microbatches=2 * ranks, form="split", forward=ms, backward_input=ms, backward_weight=ms
    )
    yield "1f1b", plan_of(generate("1f1b", problem), problem)
    yield "zb-h1", plan_of(generate("zb-h1", problem), problem)
    yield "optimized", optimize(problem, time_limit=seconds, workers=1)


def overheads(turns: int, *, bound: bool) -> Iterator[tuple[object, ...]]:
    """Yield a line for each plan of stages that compute next to nothing."""
    from support.gloo_pool import GlooPool

    for (ranks, stages), kinds in SMALL.items():
        with GlooPool(ranks) as pool:
            if bound:
                values(pool, bind)
            for kind, name in ((kind, name) for kind, names in kinds.items() for name in names):
                plan = small_plan(name, ranks, stages)
                actions = max(map(len, plan.lowered.schedule.strings()))
                spans = values(pool, by_turns, plan, kind, turns)
                ours, theirs = (
                    median(map(whole, zip(*runtime, strict=True))) / 1000 / actions
                    for runtime in zip(*spans, strict=True)
                )
                yield name, ranks, stages, kind, actions, f"{ours:.0f}", f"{theirs:.0f}", f"{theirs / ours:.2f}"


def small_plan(name: str, ranks: int, stages: int) -> Plan:
    """Return the plan of a family; ``split``: each micro-batch forward through all stages, then I and W of each."""
    placement = "v" if name == "zb-v" else "loop"
    problem = Problem.chain(ranks=ranks, stages=stages, microbatches=8, form="split", placement=placement)
    if name != "split":
        return plan_of(generate(name, problem), problem)
    order = []
    for m in range(8):
        order += [f"{stage}F{m}" for stage in range(stages)]
        order += [f"{stage}{kind}{m}" for stage in reversed(range(stages)) for kind in "IW"]
    return plan_of(Schedule.of([order]), problem)


def values(pool: Any, job: Callable[..., Any], *arguments: Any) -> list[Any]:
    """Return what each rank has of a job."""
    outcomes = pool.run(job, *arguments, timeout=280)
    wrong = [outcome.error or "a rank hangs" for outcome in outcomes if outcome.value is None]
    if wrong:
        raise SystemExit(wrong[0])
    return [outcome.value for outcome in outcomes]


def whole(spans: Iterable[Span]) -> int:
    """Return the nanoseconds from the first rank's begin of a step to the last one's end."""
    begins, ends = zip(*spans, strict=True)
    return max(ends) - min(begins)


def asleep(rank: int, plan: Plan, seconds: float, count: int) -> list[Span]:
    """Train stages that sleep, and return when each step but the first began and ended on this rank."""
    import torch
    from sleeping import Sleeper

    from schedverify.runner import Runner

    runner = Runner(plan, lambda given: [Sleeper(seconds) for _ in given.problem.stages_of[rank]], _loss)
    batch = torch.ones(ROWS * plan.problem.microbatches, WIDTH)
    return [_timed(lambda: runner.step(batch, batch)) for _ in range(count + 1)][1:]


def bind(rank: int) -> int:
    """Give a rank a core of its own, and have gloo's thread not preempt it when that wakes; return the core."""
    cores = sorted(os.sched_getaffinity(0))
    core = cores[rank % len(cores)]
    for thread in Path("/proc/self/task").iterdir():
        os.sched_setaffinity(int(thread.name), {core})
        if (thread / "comm").read_text().startswith("gloo"):
            os.sched_setscheduler(int(thread.name), os.SCHED_BATCH, os.sched_param(0))
    return core


def by_turns(rank: int, plan: Plan, kind: str, turns: int) -> tuple[list[Span], list[Span]]:
    """Run a plan in our runner and in PyTorch's by turns, and return when steps began and ended in each."""
    import torch
    from torch.distributed.pipelining import PipelineStage

    from schedverify.runner import Runner
    from schedverify.torch_bridge import load_verified

    numbers, count = plan.problem.stages_of[rank], plan.problem.stages
    ours = Runner(plan, [_small(kind) for _ in numbers], _loss)
    stages = [PipelineStage(_small(kind), number, count, torch.device("cpu")) for number in numbers]
    theirs = load_verified(plan, stages, _loss)
    shape, width = (16,) if kind == LAYER else (), int(kind.split()[1])
    batch = torch.ones(ROWS * plan.problem.microbatches, *shape, width)
    given = [batch] if 0 in numbers else []
    target = batch if count - 1 in numbers else None
    spans: tuple[list[Span], list[Span]] = ([], [])
    for _ in range(turns + 3):
        spans[0].append(_timed(lambda: ours.step(batch, batch)))
        spans[1].append(_timed(lambda: theirs.step(*given, target=target)))
    return spans[0][3:], spans[1][3:]


def _small(kind: str) -> Any:
    import torch

    width = int(kind.split()[1])
    if kind == LAYER:
        return torch.nn.TransformerEncoderLayer(width, 4, dim_feedforward=2 * width, dropout=0.0, batch_first=True)
    return torch.nn.Sequential(torch.nn.Linear(width, width), torch.nn.Tanh())


def _loss(output: Any, target: Any) -> Any:
    import torch

    return torch.nn.functional.mse_loss(output, target)


def _timed(step: Callable[[], Any]) -> Span:
    """Run a step once all ranks are there; the clock is that of the machine."""
    import torch

    torch.distributed.barrier()
    began = time.perf_counter_ns()
    step()
    return began, time.perf_counter_ns()


if __name__ == "__main__":
    main()
