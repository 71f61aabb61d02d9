"""Weights of the count relaxation in whole numbers, and whether they prove that a number of ticks is too few."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import numpy as np

from schedverify.optimizer.counts.program import Ticks, Weights
from schedverify.optimizer.counts.relaxation import Class, CountRow, Counts

SCALES: Final = (30, 300, 3_000, 30_000, 300_000, 3_000_000, 30_000_000)
"""The largest weight of a proof; the least that does is taken, since small numbers make short plans."""
_LARGEST: Final = 1 << 60


class Weighed:
    """A row with whole weights: ``weight[i]`` at each tick from ``times[i]`` on, until ``times[i + 1]``.

    ``rest[i]`` is the sum of the weights of all ticks from ``times[i]`` on.
    """

    def __init__(self, row: CountRow, times: Ticks, weight: Ticks) -> None:
        self.row, self.times, self.weight = row, times, weight
        self.rest = np.concatenate([np.cumsum((weight * np.diff(times))[::-1])[::-1], [0]])

    def onward(self, ticks: Ticks) -> Ticks:
        """Return the sum of the weights of all ticks from each given one on."""
        index = np.searchsorted(self.times, ticks, side="right") - 1
        inside = np.clip(index, 0, len(self.weight) - 1)
        gone = np.where(ticks < self.times[-1], self.weight[inside] * (ticks - self.times[inside]), 0)
        return np.asarray(np.where(index < 0, self.rest[0], self.rest[np.clip(index, 0, None)] - gone))

    def evidence(self) -> dict[str, Any]:
        """Return the row as a certificate names it."""
        return {
            "row": self.row.name,
            "at": list(self.row.at),
            "times": self.times.tolist(),
            "weights": self.weight.tolist(),
        }


def prove(counts: Counts, limit: int, grid: int, found: list[Weights]) -> list[dict[str, Any]] | None:
    """Return the rows of a proof that nothing ends within ``limit`` ticks, or None where the weights are none.

    The price of a start is the sum, over the rows, of the weights that it adds to the left side. All starts together
    pay no more than the weighted limits; each pays at least the least price of its class. So if the least prices of all
    operations exceed the weighted limits, there is no schedule.
    """
    peak = max((float(weights.weight.max(initial=0)) for weights in found), default=0)
    for scale in SCALES if peak > 0 else ():
        rows = [row for weights in found if (row := _whole(weights, scale / peak, grid)) is not None]
        paid = sum(abs(factor) * int(row.rest[0]) for row in rows for _, factor, _ in row.row.terms)
        if paid * max(counts.number.values()) > _LARGEST:
            return None
        if _least(counts, limit, rows) > sum(row.row.limit * int(row.rest[0]) for row in rows):
            return [row.evidence() for row in rows]
    return None


def _whole(weights: Weights, scale: float, grid: int) -> Weighed | None:
    """Return a row with its weights rounded; equal blocks that follow one another become one."""
    rounded = np.rint(weights.weight * scale).astype(np.int64)
    starts, values = weights.times[rounded > 0], rounded[rounded > 0]
    if not len(values):
        return None
    gaps = starts[1:] > starts[:-1] + grid
    times = np.concatenate([starts, starts[:-1][gaps] + grid, [starts[-1] + grid]])
    values = np.concatenate([values, np.zeros(int(gaps.sum()) + 1, dtype=np.int64)])
    order = np.argsort(times, kind="stable")
    times, values = times[order], values[order]
    changes = np.concatenate([[True], values[1:] != values[:-1]])
    return Weighed(weights.row, times[changes], values[changes][:-1])


def _least(counts: Counts, limit: int, rows: Iterable[Weighed]) -> int:
    """Return the least that the starts of all operations can pay."""
    by_class: dict[Class, list[tuple[Weighed, int, int]]] = {one: [] for one in counts.classes}
    for row in rows:
        for one, factor, delay in row.row.terms:
            by_class[one].append((row, factor, delay))
    least = {one: _cheapest(counts, one, limit, terms) for one, terms in by_class.items()}
    total = 0
    for stage in counts.stages:
        ways = [least[kind, stage] + (least["W", stage] if kind == "I" else 0) for kind in counts.gradients[stage]]
        total += counts.number[stage] * (least["F", stage] + min(ways, default=0))
    return total


def _cheapest(counts: Counts, one: Class, limit: int, terms: list[tuple[Weighed, int, int]]) -> int:
    """Return the least price of a start of a class within its window; 0 is free to one that may wait for ever."""
    first, last = counts.release[one], counts.latest(one, limit)
    borders = [np.array([first] if last is None else [first, last], dtype=np.int64)]
    borders += [row.times - delay for row, _, delay in terms]
    ticks = np.unique(np.concatenate(borders))
    ticks = ticks[(ticks >= first) & (ticks <= (ticks[-1] if last is None else last))]
    price = np.zeros(len(ticks), dtype=np.int64)
    for row, factor, delay in terms:
        price += factor * row.onward(ticks + delay)
    return int(price.min()) if last is not None else min(0, int(price.min()))
