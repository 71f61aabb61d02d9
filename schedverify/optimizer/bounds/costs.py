"""Least costs and longest paths of a problem, in true ticks: what the lower bounds by formula are made of."""

from __future__ import annotations

from functools import cached_property

from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.optimizer.tasks import longest_paths


class Costs:
    """By stage: how many micro-batches there are, the least costs of each step, and the paths before and after it.

    Attributes
    ----------
    count
        Micro-batches that go through the stage.
    forward, gradient, backward
        Ticks of F; the least of an op that makes the gradient; the least of the whole backward.
    rest
        The least of the backward that can be left once I has ended, in a split problem.
    work
        The least that all its steps take.
    order
        The stages, each behind those that feed it. Every other list is by stage, shape (stages,), in ticks.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.trains = problem.form != "inference"
        stages = range(problem.total_stages)
        self.count = list(problem.microbatch_counts)
        self.forward = list(problem.forward)
        ways = [self._ways_back(stage) for stage in stages]
        self.gradient = [min(gradient for gradient, _ in way) for way in ways]
        self.backward = [min(gradient + weight for gradient, weight in way) for way in ways]
        self.rest = [max(0, min(g + w for g, w in way) - way[-1][0]) for way in ways]
        self.work = [self.count[stage] * (self.forward[stage] + self.backward[stage]) for stage in stages]
        self.order = problem.topological_order
        self._ways: dict[int, dict[int, tuple[int, int]]] = {}

    @cached_property
    def head(self) -> list[int]:
        """By stage, the longest path of forwards that leads to its F."""
        return longest_paths(self.order, self.problem.predecessors, self._forward_hop)

    @cached_property
    def tail(self) -> list[int]:
        """By stage, what must follow its last step: a path of B (fused), of F (inference), or nothing (split)."""
        problem = self.problem
        if problem.form == "fused":
            lag = problem.backward_lag
            return longest_paths(self.order, problem.predecessors, lambda b, stage: lag(stage, b) + self.gradient[b])
        if not self.trains:
            lag, order = problem.forward_lag, self.order[::-1]
            return longest_paths(order, problem.successors, lambda t, stage: lag(stage, t) + self.forward[t])
        return [0] * problem.total_stages

    @cached_property
    def turn(self) -> list[int]:
        """By stage, the ticks from the start of F until its gradient op can start, if nothing else is in the way."""
        lag = self.problem.forward_lag
        below = longest_paths(
            self.order[::-1],
            self.problem.successors,
            lambda t, stage: lag(stage, t) + self.forward[t] + self.gradient[t] + self.problem.backward_lag(t, stage),
        )
        return [forward + ticks for forward, ticks in zip(self.forward, below, strict=True)]

    def ways(self, start: int) -> dict[int, tuple[int, int]]:
        """By stage that ``start`` leads to, itself first: the longest ways there and back.

        There: from the start of F on ``start`` to the start of F on the other. Back: from the end of the gradient op on
        the other to the end of the whole backward on ``start``.
        """
        if start in self._ways:
            return self._ways[start]
        ways = self._ways[start] = {start: (0, 0)}
        gradient = [*self.gradient[:start], self.backward[start], *self.gradient[start + 1 :]]
        for stage in self.order:
            known = [b for b in self.problem.predecessors[stage] if b in ways]
            if known:
                ahead = max(ways[b][0] + self._forward_hop(b, stage) for b in known)
                back = max(ways[b][1] + gradient[b] + self.problem.backward_lag(stage, b) for b in known)
                ways[stage] = ahead, back
        return ways

    def _forward_hop(self, source: int, target: int) -> int:
        """Return the ticks from the start of F on a stage to that on one which it feeds."""
        return self.forward[source] + self.problem.forward_lag(source, target)

    def _ways_back(self, stage: int) -> list[tuple[int, int]]:
        """Return for each form that the backward may take its gradient op and its weight op."""
        ways = []
        if self.trains:
            ways.append((self.problem.duration(int(Kind.B), stage), 0))
        if self.problem.form == "split":
            ways.append((self.problem.duration(int(Kind.I), stage), self.problem.backward_weight[stage]))
        return ways or [(0, 0)]
