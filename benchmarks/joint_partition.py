"""Partition and schedule together, beside partition first and schedule second, on models with a heavy head.

``python benchmarks/joint_partition.py`` takes decoder models by their published shapes: a layer and the head cost what
their parameters do, forward, backward to the input and to the weights alike, and the embedding next to nothing. One
tick is the time of 10^5 parameters. Memory, where it is limited, holds 16 bytes a parameter (weights, gradients and the
optimizer's state) and 34 bytes for each of 4096 tokens and each unit of the hidden size of a layer in flight
(Korthikanti et al., arXiv 2205.05198, section 4.1, without the attention scores). The peer is what people do: the
partition with the least busiest rank first, then the best schedule of that; both searches in one run. ``--count 2``
takes the first two cases.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import NamedTuple

from printing import arguments, progress, publish, table, where

from schedverify import generate, partition_jointly, simulate
from schedverify.core.model import Devices, Layer, Model
from schedverify.core.problem import Problem
from schedverify.partitioner.stage_problem import even_split, stage_problem

GIB = 1 << 30
_TOKENS = 4096
_LATENCY = 5


class Shape(NamedTuple):
    """A decoder model: layers, hidden size, parameters of a layer and of the head in units of 10^5."""

    name: str
    layers: int
    hidden: int
    layer: int
    head: int


GPT2 = Shape("GPT-2 124M", 12, 768, 71, 386)
LLAMA_1B = Shape("Llama 3.2 1B", 16, 2048, 608, 2627)
QWEN = Shape("Qwen2.5 0.5B", 24, 896, 149, 1361)
GEMMA = Shape("Gemma 2 2B", 26, 2304, 779, 5898)
LLAMA_8B = Shape("Llama 3 8B", 32, 4096, 2181, 5253)


class Case(NamedTuple):
    """A model on so many ranks and stages a rank, with so many micro-batches and GiB on each rank (0: no limit)."""

    shape: Shape
    ranks: int
    virtual: int
    microbatches: int
    memory: int = 0


CASES = (
    Case(GPT2, 4, 1, 8),
    Case(LLAMA_1B, 4, 1, 8),
    Case(LLAMA_1B, 4, 1, 8, 13),
    Case(QWEN, 4, 1, 16),
    Case(GEMMA, 4, 1, 8),
    Case(GEMMA, 8, 1, 16, 24),
    Case(LLAMA_8B, 8, 1, 16),
    Case(LLAMA_8B, 8, 1, 16, 48),
    Case(GPT2, 2, 2, 8),
    Case(LLAMA_1B, 4, 2, 8),
)


def main() -> None:
    """Search each case and print a line for it."""
    parser = arguments(__doc__ or "", seconds=60)
    parser.add_argument("--count", type=int, default=len(CASES), help="how many cases")
    options = parser.parse_args()
    with progress() as bar:
        rows = [
            _line(case, options.seconds, options.workers)
            for case in bar.track(CASES[: options.count], description="partition and schedule together")
        ]
    head = ("model", "ranks x stages", "M", "GiB", "even, family", "partition first", "together", "shorter", "open",
            "looked at", "of", "seconds")  # fmt: skip
    text = f"""{where("ortools")}; seed 0.

{options.workers} threads and {options.seconds:g} s for each case, partition first within them.

{table(head, rows)}"""
    publish("joint-partition", text, update=options.update)


def model_of(case: Case) -> Model:
    """Return the layers of a case: embedding, decoder layers, head."""
    shape = case.shape
    held, state = 34 * _TOKENS * shape.hidden, 16 * 10**5
    output = 2 * _TOKENS * shape.hidden
    layer = Layer("", shape.layer, 2 * shape.layer, shape.layer, shape.layer, held, held // 3, state * shape.layer,
                  0, output)  # fmt: skip
    head = Layer("head", shape.head, 2 * shape.head, shape.head, shape.head, 4 * output, output, state * shape.head)
    embedding = Layer("embedding", 1, 1, 0, 1, output, output, state * shape.head, 0, output)
    layers = (embedding, *(replace(layer, name=f"t{i}") for i in range(shape.layers)), head)
    return Model(shape.name, layers, devices=Devices((case.memory * GIB,) if case.memory else (), latency=_LATENCY))


def _line(case: Case, seconds: float, workers: int) -> tuple[object, ...]:
    began = time.perf_counter()
    found = partition_jointly(
        model_of(case),
        ranks=case.ranks,
        virtual=case.virtual,
        microbatches=case.microbatches,
        time_limit=seconds,
        workers=workers,
    )
    spent = time.perf_counter() - began
    first = "none fits" if found.first is None else found.first.value
    return (
        case.shape.name,
        f"{case.ranks} x {case.virtual}",
        case.microbatches,
        case.memory or "-",
        _even(case),
        first,
        found.plan.value,
        "" if found.gain is None else f"{float(found.gain):.2%}",
        f"{float(found.gap or 0):.2%}",
        len(found.tried),
        found.partitions,
        f"{spent:.1f}",
    )


def _even(case: Case) -> int | str:
    """Return the makespan of the usual family on as many layers for each stage, where that fits."""
    shape = Problem.chain(ranks=case.ranks, microbatches=case.microbatches, virtual=case.virtual)
    model = model_of(case)
    problem = stage_problem(model, even_split(model, shape.stages), shape)
    timeline = simulate(generate("1f1b" if case.virtual == 1 else "interleaved-1f1b", problem), problem)
    fits = problem.capacity is None or all(map(int.__le__, timeline.peak_memory, problem.capacity))
    return timeline.makespan if fits else f"{timeline.makespan}, no room"


if __name__ == "__main__":
    main()
