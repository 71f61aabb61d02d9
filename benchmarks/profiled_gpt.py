"""From a model to a run: a GPT is profiled, cut, scheduled, verified and trained, and predictions are held against it.

``python benchmarks/profiled_gpt.py`` profiles the blocks of a small GPT with a heavy head in two processes of this
machine over gloo, one thread each. By these figures it cuts the model and optimizes the schedule, and in the same
processes trains four plans by turns, a step of each: 1F1B with as many layers on each rank, 1F1B and ZB-H1 on the best
partition, and the optimized plan. The losses of a step must be the same in all of them.
"""

from __future__ import annotations

import argparse
import copy
import os
import sys
import time
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import torch
from printing import progress, publish, table, where
from torch import nn
from torch.nn.functional import cross_entropy, scaled_dot_product_attention

from schedverify import generate, optimize
from schedverify.core.result import Plan
from schedverify.partitioner.stage_problem import Cut, cut, even_split, evenly
from schedverify.planner.plans import plan_of
from schedverify.profiling import ModelProfile, ProfileSettings, measure
from schedverify.runner import Runner
from schedverify.runner.launch.source import Source

RANKS, VOCABULARY, CONTEXT, HEADS, ROWS = 2, 4096, 64, 4, 4
CLOSE = 1e-4
"""The most by which losses of a step may differ, relative: sums of float32 in another order."""
Parts = tuple[tuple[int, ...], ...]
Span = tuple[int, int]


class Sizes(NamedTuple):
    """What the model is, and how it is run."""

    width: int
    depth: int
    microbatches: int
    rounds: int
    steps: int


def main() -> None:
    """Profile, plan, train by turns and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument("--width", type=int, default=128, help="of the model")
    parser.add_argument("--depth", type=int, default=8, help="blocks between embedding and head")
    parser.add_argument("--microbatches", type=int, default=8, help="of a step")
    parser.add_argument("--rounds", type=int, default=40, help="of the profile")
    parser.add_argument("--steps", type=int, default=25, help="of each plan, behind two that do not count")
    parser.add_argument("--seconds", type=float, default=10, help="time limit of the search")
    parser.add_argument("--update", action="store_true", help="put what is printed into docs/benchmarks.md")
    chosen = parser.parse_args()
    sizes = Sizes(chosen.width, chosen.depth, chosen.microbatches, chosen.rounds, chosen.steps)
    sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
    from support.gloo_pool import GlooPool

    with progress() as bar, GlooPool(RANKS) as pool:
        task = bar.add_task("profile, plan, run", total=3)
        figures = values(pool, profiled, sizes)[0]
        model = figures.as_model("us")
        bar.advance(task)
        found = cut(model, ranks=RANKS, microbatches=sizes.microbatches)
        plans = plans_for(found, chosen.seconds)
        bar.advance(task)
        spans, losses = zip(*values(pool, trained, sizes, plans), strict=True)
        bar.advance(task)
    shares = [sum(each) for each in zip(*losses, strict=True)]
    if max(shares) - min(shares) > CLOSE * max(shares):
        raise SystemExit(f"the plans have different losses: {shares}")
    rows = [line(*each) for each in zip(plans, zip(*spans, strict=True), strict=True)]
    link = model.devices
    text = f"""{where("torch", "ortools")}; seed 0 of the search; a load average of {os.getloadavg()[0]:.1f} at the end.

A GPT of width {sizes.width} with {sizes.depth} blocks, {VOCABULARY} words and {CONTEXT} words of context; {ROWS} rows
a micro-batch, {sizes.microbatches} micro-batches a step, {RANKS} ranks with a thread each. Medians of {sizes.steps}
steps of each plan, by turns; the losses are the same. Latency {link.latency} us, {link.bandwidth} bytes per us.

{table(("block", "forward, ms", "backward, ms", "I, ms", "W, ms"), blocks(figures))}

{table(("plan", "blocks of each rank", "predicted, ms", "measured, ms", "measured over predicted"), rows)}"""
    publish("profiled-gpt", text, update=chosen.update)


def blocks(found: ModelProfile) -> list[tuple[object, ...]]:
    """Return a line for the embedding, the block in the middle and the head: medians, and quartiles in brackets."""
    chosen = {"embedding": 0, "one of the equal ones": len(found.blocks) // 2, "head and loss": -1}
    rows: list[tuple[object, ...]] = []
    for name, place in chosen.items():
        times = found.blocks[place].times.values()
        told = (tuple(each / 1e6 for each in figure) for figure in times)
        rows.append((name, *(f"{middle:.1f} [{lower:.1f}, {upper:.1f}]" for middle, lower, upper, _ in told)))
    return rows


def plans_for(found: Cut, seconds: float) -> list[tuple[str, Plan, Parts]]:
    """Return the plans by name, each with the layers of each stage; the runner asks the verifier again."""
    even, best = evenly(found.model, found), found.problem
    own, same = found.partition.layers, even_split(found.model, RANKS)
    plans = [
        ("1F1B, as many layers on each rank", plan_of(generate("1f1b", even), even), same),
        ("1F1B, best partition", plan_of(generate("1f1b", best), best), own),
        ("ZB-H1, best partition", plan_of(generate("zb-h1", best), best), own),
        ("optimized, best partition", optimize(best, time_limit=seconds, workers=1), own),
    ]
    for name, plan, _ in plans:
        if plan.lowered is None or any(verdict == "violated" for verdict in plan.verdicts.values()):
            raise SystemExit(f"{name} does not hold: {plan.verdicts}")
    return plans


def line(planned: tuple[str, Plan, Parts], spans: tuple[list[Span], ...]) -> tuple[object, ...]:
    """Return a plan's line of the table."""
    name, plan, parts = planned
    steps = [max(ends) - min(begins) for begins, ends in (zip(*step, strict=True) for step in zip(*spans, strict=True))]
    predicted, measured = plan.measures.makespan / 1e3, median(steps) / 1e6
    shares = " + ".join(str(len(part)) for part in parts)
    return name, shares, f"{predicted:.0f}", f"{measured:.0f}", f"{measured / predicted:.2f}"


def values(pool: Any, job: Any, *arguments: Any) -> list[Any]:
    """Return what each rank has of a job."""
    outcomes = pool.run(job, *arguments, timeout=500)
    wrong = [outcome.error for outcome in outcomes if outcome.error] or ["a rank hangs"] * any(o.hung for o in outcomes)
    if wrong:
        raise SystemExit(wrong[0])
    return [outcome.value for outcome in outcomes]


# In the processes


def profiled(_: int, sizes: Sizes) -> Any:
    """Profile the model on this rank, while the other does; rank 0 has the figures of both."""
    return measure(ProfileSettings("gpt", sizes.microbatches, sizes.rounds), source=gpt(sizes))


def trained(rank: int, sizes: Sizes, plans: list[tuple[str, Plan, Parts]]) -> tuple[list[list[Span]], list[float]]:
    """Train all plans by turns; return by plan when its steps began and ended, and this rank's share of a loss."""
    source, runners = gpt(sizes), []
    made = [block for _, block in source.blocks]
    for _, plan, parts in plans:
        stages = [nn.Sequential(*(copy.deepcopy(made[i]) for i in parts[s])) for s in plan.problem.stages_of[rank]]
        runners.append(Runner(plan, stages, source.loss))
    spans: list[list[Span]] = [[] for _ in plans]
    losses = [0.0 for _ in plans]
    for step in range(sizes.steps + 2):
        given = source.batch(step)
        for number, runner in enumerate(runners):
            began, ended, result = _timed(runner, given)
            spans[number].append((began, ended))
            losses[number] = 0.0 if result.loss is None else float(result.loss)
    return [each[2:] for each in spans], losses


def _timed(runner: Any, given: Any) -> tuple[int, int, Any]:
    """Run a step once all ranks are there; the clock is that of the machine."""
    for module in runner.modules.values():
        module.zero_grad()
    torch.distributed.barrier()
    began = time.perf_counter_ns()
    result = runner.step(*given)
    return began, time.perf_counter_ns(), result


class Block(nn.Module):
    """Causal attention and a feed-forward part."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.before, self.attend, self.mix = nn.LayerNorm(width), nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.think = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 4 * width), nn.GELU(), nn.Linear(4 * width, width)
        )

    def forward(self, x: Any) -> Any:
        """Return what goes to the next block, of the same shape: rows, words, width."""
        parts = self.attend(self.before(x)).chunk(3, dim=-1)
        query, key, value = (each.unflatten(-1, (HEADS, -1)).transpose(1, 2) for each in parts)
        x = x + self.mix(scaled_dot_product_attention(query, key, value, is_causal=True).transpose(1, 2).flatten(2))
        return x + self.think(x)


def gpt(sizes: Sizes) -> Source:
    """Return the blocks, always with the same weights, the batches and the loss."""
    torch.manual_seed(0)
    head = nn.Sequential(nn.LayerNorm(sizes.width), nn.Linear(sizes.width, VOCABULARY))
    middle = (Block(sizes.width) for _ in range(sizes.depth))
    made = [nn.Embedding(VOCABULARY, sizes.width), *middle, head]

    def batch(step: int) -> tuple[Any, Any]:
        numbers = torch.Generator().manual_seed(step)
        words = torch.randint(VOCABULARY, (ROWS * sizes.microbatches, CONTEXT + 1), generator=numbers)
        return words[:, :-1], words[:, 1:]

    def loss(output: Any, target: Any) -> Any:
        return cross_entropy(output.flatten(0, 1), target.flatten())

    return Source(tuple((str(i), block) for i, block in enumerate(made)), batch, loss)


if __name__ == "__main__":
    main()
