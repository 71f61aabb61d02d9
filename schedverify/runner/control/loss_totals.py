"""What all ranks must know of a step's losses: what the whole batch weighs, and how much it counts where sums are made.

Ranks with a last stage agree over the data-parallel group before a step, on what its micro-batches weigh, and behind
the first step, and each step whose losses are sums, on the form of the losses and the counts. Behind those steps they
tell it to the other ranks of the pipeline::

    pipeline 0    rank 0  <-- exchange --  last rank            behind the first step, and each with sums
                                              |
                                          all_reduce            before each step, and behind those
                                              |
    pipeline 1    rank 0  <-- exchange --  last rank
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any, Final, NamedTuple

import torch
import torch.distributed as dist

from schedverify.core.errors import Fault, InputError
from schedverify.core.problem import Problem
from schedverify.runner.compute.batches import Feed, counted_in
from schedverify.runner.compute.losses import (
    EMPTY_MEAN,
    Form,
    KnownForm,
    Loss,
    power_below,
    share_of_means,
    share_of_sums,
)  # fmt: skip
from schedverify.runner.control.exchange import exchange
from schedverify.runner.failures import RunError
from schedverify.runner.p2p.waiting import begin, wait
from schedverify.runner.step_result import StepResult

log = logging.getLogger("schedverify")
_PART: Final = "the losses of the step"
_CURE: Final = "return a mean everywhere, or a pair"
_NONE: Final = "-"
"""Stands for the form of a rank without a loss."""


class Settled(NamedTuple):
    """What a step's losses come to."""

    share: Any
    """The rank's share of the whole loss; None where it has no last stage."""
    factor: float | None
    """By what the step's gradients are to be multiplied; None where they are right as they are."""


class _Told(NamedTuple):
    """What a rank tells of its losses."""

    form: Form | None
    seed: float
    """The gradient with which the backward of each sum began."""
    counts: Mapping[int, float]
    """By last stage of one copy; with a data-parallel group the mean over its pipelines."""


class LossTotals:
    """Agrees with other ranks on the losses of each step.

    Parameters
    ----------
    control
        A gloo group of the pipeline's ranks.
    groups
        Gloo groups of the ranks with the same last stage in other pipelines, over which its gradients are averaged, one
        after the other.
    timeout
        Seconds that a rank waits for another.
    """

    def __init__(self, problem: Problem, control: Any, groups: Sequence[Any], timeout: float) -> None:
        self._stages = problem.stages
        self._lasts = [stage for stage in range(problem.stages) if not problem.successors[stage]]
        self._rank, self._control = dist.get_rank(control), control
        self._groups, self._timeout = groups, timeout
        self._known = KnownForm()

    def weigh(self, feed: Feed) -> Feed:
        """Return what a step is fed, with what the batch weighs over all pipelines; every rank calls it before a step.

        Raises
        ------
        InputError
            If weights are given in some pipelines only.
        """
        if not feed.targets:
            return feed
        if not self._groups and self._known.settled:
            return feed._replace(known=self._known)  # of means alone, what is fed says all
        stages = sorted(feed.targets)
        counted = float(sum(counted_in(part) for stage in stages for part in feed.targets[stage]))
        own = [float(feed.weighted), counted, *(feed.totals[stage] for stage in stages)]
        weighted, counted, *totals = self._mean_over_pipelines(own, "the weight of the batch")
        if weighted not in (0.0, 1.0):
            hint = "give weights to step on all ranks with a last stage, or on none"
            raise InputError(Fault("weights", "given in some pipelines of the data-parallel group only", hint))
        # Several last stages stand on several ranks, which do not know of each other's targets.
        seed = power_below(1 / counted) if counted and len(self._lasts) == 1 else 1.0
        return feed._replace(totals=dict(zip(stages, totals, strict=True)), seed=seed, known=self._known)

    def settle(self, feed: Feed, losses: Mapping[tuple[int, int], Loss]) -> Settled:
        """Return what the losses of a step come to, once all ranks know it; every rank calls it behind a step.

        Parameters
        ----------
        losses
            By last stage (of all copies) and micro-batch.

        Raises
        ------
        RunError
            If some ranks have means and others pairs, or several last stages do not count as much.
        """
        if not self._known.settled:
            own = self._told(feed, losses) if feed.targets else _Told(None, 1.0, dict.fromkeys(self._lasts, 0.0))
            answers = exchange(_text(own), self._control, self._timeout, part=_PART)
            told = [self._read(rank, text) for rank, text in enumerate(answers)]
            self._agree([each.form for each in told])
            if self._known.form is Form.PAIR:
                count, seed = self._count([each for each in told if each.form])
                factor = 1 / count if count else 0.0
                return Settled(share_of_sums(losses.values(), factor), factor / seed)
        return Settled(share_of_means(losses.values()), None)

    def whole(self, result: StepResult) -> float:
        """Return the loss of the whole batch from the results of all ranks; every rank calls it.

        Where it is NaN, the log tells the micro-batches whose loss is.

        Raises
        ------
        RunError
            If a rank sends what is no number.
        """
        what = "the loss of the step"
        share = 0.0 if result.loss is None else float(result.loss)
        if math.isnan(share):
            told = sorted({m for (_, m), loss in result.losses.items() if bool(loss.isnan())})
            named = ", ".join(map(str, told))
            log.warning("rank %d: the loss of micro-batch %s is NaN (%s)", self._rank, named, EMPTY_MEAN)
        own = share if result.loss is None else self._mean_over_pipelines([share], what)[0]
        shares = exchange(own.hex(), self._control, self._timeout, part=what)
        return sum(_share_of(rank, text) for rank, text in enumerate(shares))

    def _mean_over_pipelines(self, numbers: Sequence[float], what: str) -> list[float]:
        """Return the means of numbers over the groups; the numbers themselves where there are none."""
        row = torch.tensor(numbers, dtype=torch.float64)
        for group in self._groups:
            place = f"rank {self._rank}, {what} over the data-parallel group"
            wait(begin(partial(dist.all_reduce, row, group=group, async_op=True), place), place, self._timeout)
            row /= dist.get_world_size(group)
        return [float(number) for number in row]

    def _told(self, feed: Feed, losses: Mapping[tuple[int, int], Loss]) -> _Told:
        """Return what this rank tells of its losses, and agree on it with the other pipelines."""
        form, counts = self._known.form, dict.fromkeys(self._lasts, 0.0)
        for (number, _), loss in losses.items():
            counts[number % self._stages] += loss.count
        own = [float(form is each) for each in Form] + list(counts.values())
        means, pairs, *counted = self._mean_over_pipelines(own, _PART)
        if means and pairs:
            raise RunError(
                f"rank {self._rank}, {_PART}: in some pipelines a loss is a mean, in others a pair ({_CURE})"
            )
        return _Told(
            Form.MEAN if means else Form.PAIR if pairs else None, feed.seed, dict(zip(counts, counted, strict=True))
        )

    def _read(self, rank: int, text: str) -> _Told:
        try:
            name, seed, *counts = text.split()
            form, numbers = Form[name] if name != _NONE else None, map(float.fromhex, counts)
            return _Told(form, float.fromhex(seed), dict(zip(self._lasts, numbers, strict=True)))
        except (KeyError, ValueError, OverflowError) as error:
            raise RunError(f"rank {rank}, {_PART}: what it sent cannot be read") from error

    def _agree(self, forms: Sequence[Form | None]) -> None:
        """Note the form of all ranks' losses."""
        found = {form: [rank for rank, other in enumerate(forms) if other is form] for form in forms if form}
        if len(found) > 1:
            ranks = "; ".join(f"rank {', '.join(map(str, found[form]))}: {form}" for form in Form)
            raise RunError(f"{_PART} are not of one form ({_CURE}): {ranks}")
        for form in found:
            self._known.form, self._known.agreed = form, True

    def _count(self, told: Sequence[_Told]) -> tuple[float, float]:
        """Return how much the whole batch counts at its last stage, or at each of several, and the seed of the sums."""
        counts = {stage: sum(each.counts[stage] for each in told) for stage in self._lasts}
        if len(set(counts.values()) - {0.0}) > 1:
            listed = ", ".join(f"{count:g} at stage {stage}" for stage, count in counts.items())
            hint = "let each loss be a mean, and give the counts of micro-batches as weights to step"
            raise RunError(f"{_PART}: last stages count differently, {listed}: {hint}")
        seeds = {each.seed for each in told}
        if len(seeds) > 1:
            raise RunError(
                f"{_PART}: ranks with copies of a last stage have other targets; give each the whole batch's"
            )
        return max(counts.values()), seeds.pop()


def _text(told: _Told) -> str:
    return " ".join(
        [told.form.name if told.form else _NONE, *(each.hex() for each in (told.seed, *told.counts.values()))]
    )


def _share_of(rank: int, text: str) -> float:
    try:
        return float.fromhex(text)
    except (ValueError, OverflowError) as error:
        raise RunError(f"rank {rank}, the loss of the step: what it sent is no number") from error
