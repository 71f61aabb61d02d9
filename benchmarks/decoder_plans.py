"""Plans for 80-layer decoders of 70 billion parameters, beside the even split and a layout that was worked out by hand.

``python benchmarks/decoder_plans.py`` cuts models that come along, by computed costs, for 8 ranks with 5 stages each
and 32 micro-batches, and times interleaved 1F1B on each partition. The peers are as many layers on each stage, and the
layout in NVIDIA-NeMo/Megatron-Bridge#5391. Then partition, placement and schedule are searched for together.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from typing import NamedTuple

from printing import publish, table, where

from schedverify.core.model import Model
from schedverify.formats.megatron_cuts import megatron_layout, read_layout
from schedverify.formats.models.model_files import load_model
from schedverify.partitioner.stage_problem import Cut, cut, even_split, stage_problem
from schedverify.planner.joint import Joint, partition_jointly

BY_HAND = "Et*2|(t*2|)*34,t*3|(t*2|)*3,tL"
RANKS, VIRTUAL, MICROBATCHES = 8, 5, 32
SECONDS = 45
"""For the search for all three together."""
SET_UPS = (("llama-2-70b", "a100-80gb", 8, 4096), ("llama-3-70b", "h100-80gb", 8, 8192))
NEWLINE = "\n"
HEAD = ("model", "partition", "busiest rank, us", "makespan, us", "peak memory, GB")


class Line(NamedTuple):
    """One partition of one model, and what comes of it."""

    partition: str
    bottleneck: int
    makespan: int
    peak: int
    layout: str


def main() -> None:
    """Cut each model, time the three partitions of it, and print a line for each."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--update", action="store_true", help="put what is printed into docs/benchmarks.md")
    update = parser.parse_args().update
    rows, times, layouts, bounds = [], [], [], []
    for name, device, tensor_parallel, sequence in SET_UPS:
        model = the_model(name, device, tensor_parallel, sequence)
        found, seconds = planned(model)
        together = partition_jointly(model, ranks=RANKS, microbatches=MICROBATCHES, virtual=VIRTUAL, time_limit=SECONDS,
                                     workers=2)  # fmt: skip
        times.append(f"{name} {seconds:.1f} s")
        bounds.append(f"{together.bound} us for {name}")
        called = f"{name}, {device}, {tensor_parallel} a layer, {sequence} tokens"
        for line in (*lines(found), searched(together)):
            rows.append((called, line.partition, line.bottleneck, line.makespan, f"{line.peak / 1e9:.1f}"))
            layouts.append(f"{name}, {line.partition}: {line.layout}")
    text = f"""{where("ortools")}; no seed is set.

{table(HEAD, rows)}

```text
{NEWLINE.join(layouts)}
```

From the model to its partition: {", ".join(times)}. Together: {SECONDS} s each; no partition, placement and schedule
has less than {" and ".join(bounds)}."""
    publish("decoder-plans", text, update=update)


def the_model(name: str, device: str, tensor_parallel: int, sequence: int) -> Model:
    """Return a model that comes along, trained on devices that come along."""
    training = {"sequence": sequence, "tensor_parallel": tensor_parallel}
    return load_model(name, {"training": training, "device": {"like": device}})


def planned(model: Model, seconds: float = 20) -> tuple[Cut, float]:
    """Return the best partition that is found, each search of it for at most so long, and how long it took."""
    began = time.perf_counter()
    found = cut(model, ranks=RANKS, microbatches=MICROBATCHES, virtual=VIRTUAL, time_limit=seconds)
    return found, time.perf_counter() - began


def lines(found: Cut) -> Iterator[Line]:
    """Yield what comes of a partition, of the even split and of the layout by hand."""
    model = found.model
    yield timed("ours", found, found.partition.layers)
    yield timed("as many layers on each stage", found, even_split(model, RANKS * VIRTUAL))
    yield timed("by hand", found, layers_of(read_layout(BY_HAND)))


def searched(together: Joint) -> Line:
    """Return what comes of partition, placement and schedule together."""
    problem = together.plan.problem
    loads = [sum(problem.forward[s] + problem.backward[s] for s in stages) for stages in problem.stages_of]
    peak = max(together.plan.measures.peak_memory)
    layout = megatron_layout(together.model, together.layers, RANKS) if problem.owner_rank == loop() else "placement v"
    return Line("together with the schedule", max(loads), together.plan.value, peak, layout)


def loop() -> tuple[int, ...]:
    """Return the placement that Megatron has."""
    return tuple(stage % RANKS for stage in range(RANKS * VIRTUAL))


def timed(called: str, like: Cut, layers: Sequence[Sequence[int]]) -> Line:
    """Return what comes of some partition under the schedule of another."""
    parts = tuple(map(tuple, layers))
    problem = stage_problem(like.model, parts, like.problem)
    timeline = like._replace(problem=problem).timeline()
    loads = [sum(problem.forward[s] + problem.backward[s] for s in stages) for stages in problem.stages_of]
    layout = megatron_layout(like.model, parts, RANKS)
    return Line(called, max(loads), timeline.makespan, max(timeline.peak_memory), layout)


def layers_of(stages: Sequence[str]) -> list[range]:
    """Return by stage the positions of its layers, of the letters that a layout gives it."""
    return [range(first, last) for first, last in pairwise(accumulate(map(len, stages), initial=0))]


if __name__ == "__main__":
    main()
