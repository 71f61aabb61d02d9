"""Least costs and longest paths of a problem, in true ticks: what the lower bounds are made of."""

from __future__ import annotations

from functools import cached_property

from schedverify.core.op import Kind
from schedverify.core.problem import Problem


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
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.trains = problem.form != "inference"
        stages = range(problem.total_stages)
        self.count = [problem.replica_of.count(problem.copy_of(stage)) for stage in stages]
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
        head = [0] * self.problem.total_stages
        for stage in self.order:
            ways = (
                head[b] + self.forward[b] + self.problem.forward_lag(b, stage) for b in self.problem.predecessors[stage]
            )
            head[stage] = max(ways, default=0)
        return head

    @cached_property
    def tail(self) -> list[int]:
        """By stage, what must follow its last step: a path of B (fused), of F (inference), or nothing (split)."""
        tail = [0] * self.problem.total_stages
        if self.problem.form == "fused":
            for stage in self.order:
                ways = (
                    tail[b] + self.problem.backward_lag(stage, b) + self.gradient[b]
                    for b in self.problem.predecessors[stage]
                )
                tail[stage] = max(ways, default=0)
        elif not self.trains:
            for stage in reversed(self.order):
                ways = (
                    tail[t] + self.problem.forward_lag(stage, t) + self.forward[t]
                    for t in self.problem.successors[stage]
                )
                tail[stage] = max(ways, default=0)
        return tail

    @cached_property
    def turn(self) -> list[int]:
        """By stage, the ticks from the start of F until its gradient op can start, if nothing else is in the way."""
        turn = [0] * self.problem.total_stages
        for stage in reversed(self.order):
            ways = (
                self.problem.forward_lag(stage, t) + turn[t] + self.gradient[t] + self.problem.backward_lag(t, stage)
                for t in self.problem.successors[stage]
            )
            turn[stage] = self.forward[stage] + max(ways, default=0)
        return turn

    def ways(self, start: int) -> dict[int, tuple[int, int]]:
        """By stage that ``start`` leads to, itself first: the longest ways there and back.

        There: from the start of F on ``start`` to the start of F on the other. Back: from the end of the gradient op on
        the other to the end of the whole backward on ``start``.
        """
        if start in self._ways:
            return self._ways[start]
        ways = self._ways[start] = {start: (0, 0)}
        for stage in self.order:
            known = [b for b in self.problem.predecessors[stage] if b in ways]
            if known:
                ahead = max(ways[b][0] + self.forward[b] + self.problem.forward_lag(b, stage) for b in known)
                back = max(
                    ways[b][1]
                    + (self.backward if b == start else self.gradient)[b]
                    + self.problem.backward_lag(stage, b)
                    for b in known
                )
                ways[stage] = ahead, back
        return ways

    def _ways_back(self, stage: int) -> list[tuple[int, int]]:
        """Return for each form that the backward may take its gradient op and its weight op."""
        ways = []
        if self.trains:
            ways.append((self.problem.duration(int(Kind.B), stage), 0))
        if self.problem.form == "split":
            ways.append((self.problem.duration(int(Kind.I), stage), self.problem.backward_weight[stage]))
        return ways or [(0, 0)]
