"""The count relaxation: how many operations of each class have started by each tick, and what every schedule obeys.

A class is a kind and a stage; ``N[c](t)`` is how many of its operations have started by tick ``t``. Which micro-batch
is which is forgotten, and so is that counts are whole. What stays holds for every schedule, whatever its orders:

- *forward*, *gradient*, *turn*, *weight*: an operation waits for what it reads, so at every ``t`` no more of the later
  class have started than of the earlier one by ``t - duration - lag``;
- *rank*: a rank runs one step at a time: over its classes, ``sum of N[c](t) - N[c](t - duration) <= 1``;
- *bytes*, *in_flight*, *in_flight_stage*: what a rank or a stage holds at ``t`` is a sum of counts as well, and within
  its limit (semantics, SV401 and SV402; not in inference). Bytes are divided by their greatest common divisor.

One stage on one rank, two micro-batches, F of 2 ticks and B of 3, as they run in the order F F B B::

    tick t                                   0  1  2  3  4  5  6  7  8  9
    N[F](t)                                  1  1  2  2  2  2  2  2  2  2
    N[B](t)                                  0  0  0  0  1  1  1  2  2  2
    turn  N[B](t) - N[F](t - 2) <= 0         0  0 -1 -1 -1 -1 -1  0  0  0
    rank  N[F](t) - N[F](t - 2)
        + N[B](t) - N[B](t - 3) <= 1         1  1  1  1  1  1  1  1  1  1

On a stage whose B costs at least I + W, B is left out: I and W in its place are never worse (see
:class:`~schedverify.optimizer.tasks.Tasks`). Overlapped pairs that cost the sum or more are two steps in a row.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.optimizer.tasks import longest_paths, whole_is_cheaper

OpClass = tuple[str, int]
"""The letter of a kind, and a stage."""


@dataclass(frozen=True)
class CountRow:
    """``sum of factor * N[class](t - delay) <= limit`` at every tick ``t``.

    Attributes
    ----------
    name, at
        One of the names above, and the rank or the stages that it is about: together what a certificate calls it.
    terms
        Triples of a class, a factor and a delay in ticks.
    """

    name: str
    at: tuple[int, ...]
    terms: tuple[tuple[OpClass, int, int], ...]
    limit: int = 0


class Counts:
    """The classes of a problem, what they cost, the rows, and when each class can start.

    Attributes
    ----------
    stages, number
        The stages that micro-batches go through, and by stage how many do.
    gradients
        By stage the kinds, ``B``, ``I`` or both, of the ops that may make its gradient.
    classes, cost
        All classes, and by class the ticks of one operation.
    rows
        What every schedule obeys, without rows that nothing could break.
    bounded
        The ranks whose steps all end within the ``T`` ticks that are in question: for the makespan all of them. For
        the span one, on which every stage stands that nothing feeds: its first start is tick 0, nothing starts before,
        and it ends by ``T``. Of all timelines of an order, in which other ranks may wait as they like, the earliest one
        ends there first, at a multiple of ``unit``; so that one stands for all. Empty where there is no such rank; then
        the relaxation says nothing about the span.
    unit
        Greatest common divisor of all durations and lags: starts are multiples of it.
    """

    def __init__(self, problem: Problem, objective: str) -> None:
        self.problem = problem
        self.trains = problem.form != "inference"
        self.number = {stage: count for stage, count in enumerate(problem.microbatch_counts) if count}
        self.stages = list(self.number)
        self.gradients = {stage: self._gradients(stage) for stage in self.stages}
        self.classes = [(kind, stage) for stage in self.stages for kind in self._kinds(stage)]
        self.cost = {(kind, stage): problem.duration(int(Kind[kind]), stage) for kind, stage in self.classes}
        self.bounded = self._bounded(objective)
        self.rows = [*self._dependencies(), *self._ranks(), *self._holdings()]
        lags = [delay for row in self.rows if not row.limit for _, _, delay in row.terms]
        self.unit = math.gcd(*self.cost.values(), *lags) or 1

    def mixed(self, stage: int) -> bool:
        """Whether the backward of a micro-batch may be B or I and W."""
        return len(self.gradients[stage]) > 1

    def latest(self, op_class: OpClass, limit: int) -> int | None:
        """Return the last tick at which a class can start if all ends by ``limit``; None if it may wait for ever."""
        after = self.after[op_class]
        return None if after is None else limit - after - self.cost[op_class]

    @cached_property
    def least(self) -> int:
        """The ticks below which some class could not even start; the relaxation is asked about no less."""
        known = ((op_class, after) for op_class, after in self.after.items() if after is not None)
        return max((self.release[op_class] + self.cost[op_class] + after for op_class, after in known), default=0)

    @cached_property
    def release(self) -> dict[OpClass, int]:
        """By class, the tick before which none of it starts: the longest path that leads to it."""
        order = [stage for stage in self.problem.topological_order if stage in self.number]
        heads = longest_paths(order, self.problem.predecessors, self.forward_hop)
        release: dict[OpClass, int] = {("F", stage): heads[stage] for stage in order}
        for stage in reversed(order) if self.trains else ():
            start = release["F", stage] + self.cost["F", stage]
            for t in self.problem.successors[stage]:
                hops = [release[kind, t] + self.gradient_hop(kind, t, stage) for kind in self.gradients[t]]
                start = max(start, min(hops))
            release |= dict.fromkeys(((kind, stage) for kind in self.gradients[stage]), start)
            if ("W", stage) in self.cost:
                release["W", stage] = release["I", stage] + self.cost["I", stage]
        return release

    @cached_property
    def after(self) -> dict[OpClass, int | None]:
        """By class, the ticks that must follow the end of each of its operations; None where nothing bounds its end."""
        after: dict[OpClass, int | None] = {}
        order = [stage for stage in self.problem.topological_order if stage in self.number]
        for stage in order if self.trains else ():
            own = 0 if self._ends_in_time(stage) else None
            if ("W", stage) in self.cost:
                after["W", stage] = own
            for kind in self.gradients[stage]:
                ways = [own, *(self._soonest(after, b, self.problem.backward_lag(stage, b))
                               for b in self.problem.predecessors[stage])]  # fmt: skip
                after[kind, stage] = _longest([*ways, _plus(own, self.cost["W", stage]) if kind == "I" else None])
        for stage in reversed(order):
            ways = [_plus(after["F", t], self.problem.forward_lag(stage, t) + self.cost["F", t])
                    for t in self.problem.successors[stage]]  # fmt: skip
            ways += [self._soonest(after, stage, 0)] if self.gradients[stage] else []
            after["F", stage] = _longest([0 if self._ends_in_time(stage) else None, *ways])
        return after

    def forward_hop(self, source: int, target: int) -> int:
        """Return the ticks from the start of F on a stage to that on one which it feeds."""
        return self.cost["F", source] + self.problem.forward_lag(source, target)

    def gradient_hop(self, kind: str, source: int, target: int) -> int:
        """Return the ticks from the start of a gradient op on a stage to that on one which feeds it."""
        return self.cost[kind, source] + self.problem.backward_lag(source, target)

    def _gradients(self, stage: int) -> str:
        problem = self.problem
        if problem.form != "split":
            return "B" if problem.form == "fused" else ""
        return "BI" if whole_is_cheaper(problem, stage) else "I"

    def _kinds(self, stage: int) -> str:
        kinds = "F" + self.gradients[stage]
        return kinds + "W" if "I" in kinds else kinds

    def _bounded(self, objective: str) -> tuple[int, ...]:
        ranks = range(self.problem.ranks)
        if objective == "makespan":
            return tuple(ranks)
        sources = [self.problem.placement[s] for s in self.stages if not self.problem.predecessors[s]]
        return tuple(rank for rank in ranks if all(rank in source for source in sources))[:1]

    def _ends_in_time(self, stage: int) -> bool:
        return any(rank in self.bounded for rank in self.problem.placement[stage])

    def _soonest(self, after: dict[OpClass, int | None], stage: int, lag: int) -> int | None:
        """Return the least ticks that the gradient op of a stage and all behind it take after a lag."""
        ways = [_plus(after[kind, stage], lag + self.cost[kind, stage]) for kind in self.gradients[stage]]
        known = [way for way in ways if way is not None]
        return min(known) if len(known) == len(ways) else None

    def _dependencies(self) -> Iterator[CountRow]:
        for stage in self.stages:
            for before in self.problem.predecessors[stage]:
                term = ("F", before), -1, self.forward_hop(before, stage)
                yield CountRow("forward", (before, stage), ((("F", stage), 1, 0), term))
            kinds = self.gradients[stage]
            started = tuple(((kind, stage), 1, 0) for kind in kinds)
            if kinds and not self.problem.successors[stage]:
                yield CountRow("turn", (stage,), (*started, (("F", stage), -1, self.cost["F", stage])))
            for later in self.problem.successors[stage] if kinds else ():
                ended = (((k, later), -1, self.gradient_hop(k, later, stage)) for k in self.gradients[later])
                yield CountRow("gradient", (later, stage), (*started, *ended))
            if "I" in kinds:
                yield CountRow("weight", (stage,), ((("W", stage), 1, 0), (("I", stage), -1, self.cost["I", stage])))

    def _ranks(self) -> Iterator[CountRow]:
        for rank, stages in enumerate(self.problem.stages_of):
            busy = [op_class for op_class in self.classes if op_class[1] in stages and self.cost[op_class]]
            terms = [term for op_class in busy for term in ((op_class, 1, 0), (op_class, -1, self.cost[op_class]))]
            if terms:
                yield CountRow("rank", (rank,), tuple(terms), 1)

    def _holdings(self) -> Iterator[CountRow]:
        problem = self.problem
        if not self.trains:
            return
        for rank, stages in enumerate(problem.stages_of):
            if problem.in_flight is not None:
                yield from self._limited("in_flight", rank, stages, problem.in_flight[rank])
            if problem.capacity is not None:
                terms = tuple(term for stage in stages if stage in self.number for term in self._bytes(stage))
                room = problem.capacity[rank] - problem.static[rank]
                if sum(self.number[op_class[1]] * max(factor, 0) for op_class, factor, _ in terms) > room:
                    part = math.gcd(*(factor for _, factor, _ in terms))
                    shares = tuple((op_class, factor // part, delay) for op_class, factor, delay in terms if factor)
                    yield CountRow("bytes", (rank,), shares, room // part)
        if problem.in_flight_stage is not None:
            for stage in self.stages:
                yield from self._limited("in_flight_stage", stage, (stage,), problem.in_flight_stage[stage])

    def _limited(self, name: str, place: int, stages: tuple[int, ...], most: int) -> Iterator[CountRow]:
        known = [stage for stage in stages if stage in self.number]
        if sum(self.number[stage] for stage in known) > most:
            begun = tuple((("F", stage), 1, 0) for stage in known)
            over = ((((k, stage), -1, self.cost[k, stage])) for stage in known for k in self.gradients[stage])
            yield CountRow(name, (place,), (*begun, *over), most)

    def _bytes(self, stage: int) -> Iterator[tuple[OpClass, int, int]]:
        """Yield the terms of a stage in the row of bytes: a class, the bytes that it adds, the ticks until it does."""
        problem = self.problem
        full, saved, stash = (
            problem.activation[stage],
            problem.saved_activation_bytes[stage],
            problem.weight_stash[stage],
        )
        yield ("F", stage), saved, 0
        for kind in self.gradients[stage]:
            yield (kind, stage), full - saved, 0
            yield (kind, stage), (stash if kind == "I" else 0) - full, self.cost[kind, stage]
        if "I" in self.gradients[stage]:
            yield ("W", stage), -stash, self.cost["W", stage]


def _plus(ticks: int | None, more: int) -> int | None:
    return None if ticks is None else ticks + more


def _longest(ways: list[int | None]) -> int | None:
    return max((way for way in ways if way is not None), default=None)
