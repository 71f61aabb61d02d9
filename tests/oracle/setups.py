"""What a step of a set-up takes, cut in a given way: written from the page on hybrid parallelism.

It shares no code with the cost model but the layers and the cluster's own values.
"""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from functools import lru_cache
from itertools import combinations
from math import ceil
from typing import Any

from schedverify.core.model import Model

Cut = tuple[tuple[int, ...], ...]


def every_cut(count: int, stages: int) -> Iterator[Cut]:
    """Yield every way to cut so many layers in a row."""
    for inner in combinations(range(1, count), stages - 1):
        ends = (0, *inner, count)
        yield tuple(tuple(range(ends[s], ends[s + 1])) for s in range(stages))


def step_of(pricing: Any, setup: Any, model: Model, cut: Cut, placement: list[int], order: str) -> int:
    """Return the ticks of a step: the pipeline, and then the reduction of the fullest rank's gradients in a ring."""
    pipeline = makespan(model, cut, placement, order)
    weights = [0] * (max(placement) + 1)
    for rank, layers in zip(placement, cut, strict=True):
        weights[rank] += sum(model.layers[i].parameters for i in layers)
    return pipeline + reduction(pricing, setup, max(weights) // pricing.training.number_bytes)


def reduction(pricing: Any, setup: Any, parameters: int) -> int:
    """Return the ticks (microseconds) in which the copies reduce so many gradients."""
    copies, cluster, training = setup.data_parallel, pricing.cluster, pricing.training
    if copies == 1:
        return 0
    row = setup.tensor_parallel * copies if setup.inner == "data" else cluster.nodes * cluster.devices
    within = cluster.nodes == 1 or cluster.devices % row == 0
    link = cluster.device.inside if within else cluster.device.between

    def ring(size: int) -> Fraction:
        part = Fraction(size, copies)
        each = link.latency + (part / link.bandwidth if link.bandwidth is not None else 0)
        return 2 * (copies - 1) * each

    seconds = ring(parameters * training.gradient_bytes)
    if training.distributed_optimizer:
        seconds = (seconds + ring(parameters * training.number_bytes)) / 2
    return ceil(seconds * 10**6)


def makespan(model: Model, cut: Cut, placement: list[int], orders: str) -> int:
    """Return the ticks of a schedule of F and B: each step once its rank is free and what it reads has come."""
    forward = [sum(model.layers[i].forward for i in layers) for layers in cut]
    backward = [sum(model.layers[i].backward for i in layers) for layers in cut]
    lags = []
    for stage, layers in enumerate(cut[:-1]):
        size, bandwidth = model.layers[layers[-1]].output, model.devices.bandwidth
        apart = placement[stage] != placement[stage + 1]
        lags.append((model.devices.latency + (ceil(Fraction(size, bandwidth)) if bandwidth else 0)) if apart else 0)
    rows = _rows(orders)
    ended: dict[tuple[str, int, int], int] = {}
    free, next_ = [0] * len(rows), [0] * len(rows)
    moved = True
    while moved:
        moved = False
        for rank, row in enumerate(rows):
            while next_[rank] < len(row):
                kind, stage, m = row[next_[rank]]
                if kind == "F":
                    needs = [(("F", stage - 1, m), lags[stage - 1])] if stage else []
                else:
                    last = stage == len(cut) - 1
                    needs = [(("F", stage, m), 0)] + ([] if last else [(("B", stage + 1, m), lags[stage])])
                if any(need not in ended for need, _ in needs):
                    break
                start = max([free[rank], *(ended[need] + lag for need, lag in needs)])
                free[rank] = ended[kind, stage, m] = start + (forward if kind == "F" else backward)[stage]
                next_[rank] += 1
                moved = True
    return max(free)


@lru_cache(maxsize=8)
def _rows(orders: str) -> list[list[tuple[str, int, int]]]:
    return [[_read(step) for step in row.split()] for row in orders.splitlines()]


def _read(step: str) -> tuple[str, int, int]:
    stage, kind, m = step.partition("F") if "F" in step else step.partition("B")
    return kind, int(stage), int(m)
