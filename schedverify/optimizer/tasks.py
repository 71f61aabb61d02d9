"""A problem as the optimizer sees it: operations with durations above zero, lags, who waits for whom, longest paths."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import cached_property

from schedverify.core.op import Kind
from schedverify.core.problem import Problem

OpKey = tuple[str, int, int]
"""An operation as plain values: kind letter, stage, micro-batch."""

Node = tuple[str, int, int]
"""A step of a stage and micro-batch: letter ``F``, ``GRAD`` (the B or I, whichever makes the gradient) or ``W``."""


class Tasks:
    """The operations of a problem, in scaled ticks, in which every operation takes time.

    Durations are divided by their greatest common divisor ``unit`` and multiplied by ``subticks``; the ``instant``
    operations, those of no duration, then take 1. So two operations on one rank never start together: sorting by start
    gives the order, and in a cycle of dependencies time would have to run in a circle. Nothing else changes: a path
    through the order is longer by ``instant`` at most, which is less than ``subticks``, so ``floor(x / subticks) *
    unit`` of an earliest start ``x`` is the true one. Durations of 4, 0 and 6 ticks, each of one operation, with
    ``unit`` 2 and ``subticks`` 2::

        true ticks      0 ------- 4 ------------- 10
                        |    4    |0|      6      |
        scaled ticks    0 ------- 4 5 ----------- 11      11 // 2 * 2 = 10

    The span is a mean of such paths over the ranks of a cycle, rounded up in ticks, which need not be a multiple of the
    divisor: for it ``unit`` is 1. And over a cycle what the paths are longer by adds up: with ``subticks`` above
    ``ranks * instant`` it is still less than one tick. So a span is at most ``T`` just where some scaled timeline has
    every rank's steps within ``T * subticks + instant``: the paths of a cycle of ``k`` ranks are either ``k T`` ticks
    at most, and ``k * instant`` scaled ticks more, or ``k T + 1`` ticks at least, which is beyond all of these.

    Parameters
    ----------
    objective
        What the times are compared by: ``makespan`` or ``span``.

    Attributes
    ----------
    unit, subticks
        The greatest common divisor of all durations and lags, in ticks, or 1 for the span; the scaled ticks of a unit.
    instant
        How many operations have no duration.
    duration
        By kind letter and stage, the scaled ticks of an operation.
    microbatches_of
        By stage, the micro-batches that go through it, in rising order.
    mixed
        The stages of a split problem that may take either, B or I and W: those whose B costs less than I and W
        together. On the others I and W dominate: put I at the start of B and W right behind it. Both end within B,
        so every other step can stay where it is, in a timeline whose first steps wait as well; recomputation costs
        both forms the same; the rank holds the full activation until the end of I and a part of it, the weight stash,
        until the end of W, where B holds all of it to its end; and the pair is in flight until the end of I, not of B.
    """

    def __init__(self, problem: Problem, objective: str = "makespan") -> None:
        self.problem, self.objective = problem, objective
        stages, split = range(problem.total_stages), problem.form == "split"
        self.mixed = frozenset(stage for stage in stages if split and whole_is_cheaper(problem, stage))
        self.microbatches_of = tuple(
            tuple(m for m, copy in enumerate(problem.replica_of) if copy == problem.copy_of(stage)) for stage in stages
        )
        classes = [(kind, stage) for stage in stages for kind in problem.kinds]
        costs = {(kind, stage): problem.duration(int(Kind[kind]), stage) for kind, stage in classes}
        self.instant = sum(len(self.microbatches_of[stage]) for (_, stage), cost in costs.items() if not cost)
        span = objective == "span"
        self.unit = 1 if span else math.gcd(*costs.values(), *self._lags()) or 1
        self.subticks = 1 + self.instant * (problem.ranks if span else 1)
        self.duration = {key: self.scaled(cost) or 1 for key, cost in costs.items()}

    def scaled(self, ticks: int) -> int:
        """Return the scaled form of a number of ticks that is a multiple of the unit."""
        return ticks // self.unit * self.subticks

    def ticks(self, scaled: int) -> int:
        """Return the true ticks of an earliest start or end."""
        return scaled // self.subticks * self.unit

    def forward_lag(self, source: int, target: int) -> int:
        """Return the scaled lag of an activation from one stage to another that it feeds."""
        return self.scaled(self.problem.forward_lag(source, target))

    def backward_lag(self, source: int, target: int) -> int:
        """Return the scaled lag of a gradient from one stage to another that feeds it."""
        return self.scaled(self.problem.backward_lag(source, target))

    @property
    def trains(self) -> bool:
        """Whether there is a backward."""
        return self.problem.form != "inference"

    @property
    def splits(self) -> bool:
        """Whether the backward may be I and W."""
        return self.problem.form == "split"

    @property
    def letters(self) -> tuple[str, ...]:
        """The letters of the nodes that each stage and micro-batch has."""
        return ("F", "GRAD", "W") if self.splits else ("F", "GRAD") if self.trains else ("F",)

    def usual_kind(self, letter: str) -> str:
        """Return the kind letter of a node's operation, where its backward is not one B of a split problem."""
        if letter != "GRAD":
            return letter
        return "I" if self.splits else "B"

    @cached_property
    def pairs(self) -> tuple[tuple[int, int], ...]:
        """Every stage with every micro-batch that goes through it."""
        return tuple((stage, m) for stage, microbatches in enumerate(self.microbatches_of) for m in microbatches)

    @cached_property
    def fifo_lines(self) -> tuple[tuple[tuple[int, ...], ...], ...]:
        """By stage, the lines of micro-batches that can stand for one another: those of the same part, in order."""
        slices = self.problem.slices
        return tuple(
            tuple(tuple(microbatches[part::slices]) for part in range(min(slices, len(microbatches))))
            for microbatches in self.microbatches_of
        )

    def inputs(self, node: Node) -> Iterator[tuple[Node, int]]:
        """Yield what a step waits for, with the scaled lag between its end and the start that it allows."""
        letter, stage, m = node
        problem = self.problem
        if letter == "W":
            yield ("GRAD", stage, m), 0
        elif letter == "F":
            for before in problem.predecessors[stage]:
                yield ("F", before, m), self.forward_lag(before, stage)
            if m % problem.slices:
                yield ("F", stage, m - 1), 0
        else:
            yield ("F", stage, m), 0
            for after in problem.successors[stage]:
                yield ("GRAD", after, m), self.backward_lag(after, stage)
            if m % problem.slices < problem.slices - 1:
                yield ("GRAD", stage, m + 1), 0

    @cached_property
    def horizon(self) -> int:
        """Ticks within which every timeline of every order ends: a path meets each operation and each lag once.

        So does one in which first steps wait no longer than they must for a span: what makes a first step wait is, at
        last, that its rank's last end may not be later, which is a way back in time.
        """
        horizon = 0
        for stage, microbatches in enumerate(self.microbatches_of):
            sources = self.problem.predecessors[stage]
            lags = sum(self.forward_lag(source, stage) + self.backward_lag(stage, source) for source in sources)
            horizon += (max(self._step_costs(stage)) + lags) * len(microbatches)
        return horizon

    def _step_costs(self, stage: int) -> list[int]:
        """Return the scaled ticks of all steps of one micro-batch on a stage, for each form that it may take."""
        forward = self.duration["F", stage]
        if not self.trains:
            return [forward]
        both = [forward + self.duration["I", stage] + self.duration["W", stage]] if self.splits else []
        return both if self.splits and stage not in self.mixed else [*both, forward + self.duration["B", stage]]

    def _lags(self) -> Iterator[int]:
        for stage, before in enumerate(self.problem.predecessors):
            for other in before:
                yield self.problem.forward_lag(other, stage)
                yield self.problem.backward_lag(stage, other)


def ancestors(problem: Problem) -> list[set[int]]:
    """By stage, the stages that it depends on."""
    above: list[set[int]] = [set() for _ in range(problem.total_stages)]
    for stage in problem.topological_order:
        for before in problem.predecessors[stage]:
            above[stage] |= above[before] | {before}
    return above


def node_of(op: OpKey) -> Node:
    """Return the step that an operation is."""
    kind, stage, m = op
    return ("GRAD" if kind in "BI" else kind, stage, m)


def whole_is_cheaper(problem: Problem, stage: int) -> bool:
    """Whether, in a split problem, B costs less than I and W together."""
    return problem.backward[stage] < problem.backward_input[stage] + problem.backward_weight[stage]


def longest_paths(order: Iterable[int], sources: Sequence[Sequence[int]], hop: Callable[[int, int], int]) -> list[int]:
    """Return by stage the longest path that ends there, shape (stages,); 0 where nothing leads to it.

    Parameters
    ----------
    order
        The stages, each behind its sources; what is left out stays at 0.
    sources
        By stage, the stages from which an arc leads to it.
    hop
        The length of the arc from its first argument to its second.
    """
    longest = [0] * len(sources)
    for stage in order:
        longest[stage] = max((longest[source] + hop(source, stage) for source in sources[stage]), default=0)
    return longest


def heads(tasks: Tasks) -> list[int]:
    """Return by stage its head: the longest path of forwards and lags that leads to it, in scaled ticks.

    Head and tail are what job-shop scheduling calls the least time before and behind an operation: no F starts on a
    stage before its head.
    """
    return longest_paths(
        tasks.problem.topological_order,
        tasks.problem.predecessors,
        lambda source, stage: tasks.duration["F", source] + tasks.forward_lag(source, stage),
    )


def begins(problem: Problem) -> tuple[int, bool]:
    """Return the rank on which most of the stages stand that nothing feeds, and whether all do.

    Where all do, its first step is the first of all: every step comes behind a forward of one of them.
    """
    sources = [
        ranks
        for ranks, before, count in zip(problem.placement, problem.predecessors, problem.microbatch_counts, strict=True)
        if count and not before
    ]
    on_rank = [sum(rank in ranks for ranks in sources) for rank in range(problem.ranks)]
    rank = max(range(problem.ranks), key=on_rank.__getitem__)
    return rank, on_rank[rank] == len(sources)
