"""Idle time that no order can avoid: how long a rank must wait because it may not hold more.

What a rank may hold limits its work before its first gradient op, and behind its last F::

      0          head + turn                              last F starts          T
      | F F F . . . . | B F B F B F B F B F B F B F B F B | F B . . B . . B . .  |
        -------------                                       -------------------
        of these ticks at most                              of these ticks at most
        "most F" are work                                   F + "most A" are work

The letters are those of :mod:`schedverify.optimizer.bounds.formulas`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from schedverify.optimizer.bounds.costs import Costs

Item = tuple[int, int, int]
"""A kind of thing that a rank may hold: the bytes of each, the ticks of work with each, and how many there are."""


def ticks_with_idle_time(costs: Costs, objective: str) -> Iterator[tuple[int, int]]:
    """Yield each rank with its work and the idle time around its first gradient op and its last F, in ticks.

    *Begin.* Until a rank's first gradient op it can run nothing but F, and all of these are in flight at once. That op
    is of some stage ``s`` of the rank; it starts no earlier than ``head(s) + turn(s)``, ``turn(s)`` being the longest
    path of forwards from the start of F on ``s`` down to a stage that feeds none, and of gradient ops back to ``s``. So
    of the first ``min (head + turn)`` ticks at most ``most F`` are work: the most ticks of F that bytes and limits
    admit in flight together. Nor does any F of a stage run before its head. So for each tick ``t`` that is this one, or
    the head of a stage of the rank that is no later,

        T >= begin + sum of n (F + A),    begin = max over t of t - (most F of the stages with a head before t).

    At the least head that is the head itself. For the span the clock starts with the first F of the rank, however long
    it waits, so that ``head(s)`` is the longest way from a stage of the rank to ``s`` (no F of that one is earlier
    than the clock), and ``t`` is the one tick, with all stages' F.

    *End.* The last F of the rank is of a stage ``s`` that leads to no other of its stages. Behind its start come
    ``end(s)`` ticks: ``turn(s)``, its gradient op, and the longest path of these to the end of the whole backward of a
    stage that leads to ``s`` (for the span, one on the rank). What the rank still has to do at that start belongs to
    what it holds then: F itself, the backward ``A`` of all in flight, ``A - I`` of those that wait for W. With ``most
    A`` for the most of that under the same limits,

        T >= begin + sum of n (F + A) - F(s) - most A + end(s)    (the least over s),

    where ``t`` is a head if all F fit at once, because all of them can then come before the first gradient op (the last
    of them is behind every head in any case). On one stage a rank, k in flight and a fused backward: ``M (F + B) + turn
    - k F + turn - F - (k-1) B``. The first half for one stage a rank is in Zero Bubble (arXiv 2401.10241).
    """
    for rank, stages in enumerate(costs.problem.stages_of):
        used = [stage for stage in stages if costs.count[stage]]
        if costs.trains and used:
            yield rank, _IdleRank(costs, rank, used, objective).bound()


class _IdleRank:
    """One rank with the stages on it that micro-batches go through, and its limits; None stands for no limit."""

    def __init__(self, costs: Costs, rank: int, stages: Sequence[int], objective: str) -> None:
        self.costs, self.stages, self.makespan = costs, stages, objective == "makespan"
        problem = costs.problem
        self.room = None if problem.capacity is None else problem.capacity[rank] - problem.static[rank]
        self.limit = None if problem.in_flight is None else problem.in_flight[rank]
        self.stage_limits = problem.in_flight_stage
        self.work = sum(costs.work[stage] for stage in stages)

    def bound(self) -> int:
        """Return the ticks that the makespan, or the span, cannot go below."""
        turned = min(map(self._until_gradient, self.stages))
        heads = [self.costs.head[stage] for stage in self.stages if self.costs.head[stage] <= turned]
        lead = max(map(self._idle_until, heads)) if self.makespan else 0
        begin = max(lead, self._idle_until(turned))
        end = min(self._end(stage) - self.costs.forward[stage] for stage in self.stages if self._is_last(stage))
        end -= self._most(self.costs.backward, waiting=True)
        return self.work + max(begin, (lead if self._all_fit() else begin) + end)

    def _idle_until(self, tick: int) -> int:
        """Return the ticks before ``tick`` in which there is nothing to run, where no gradient op can start earlier."""
        ticks_and_heads = zip(self.costs.forward, self.costs.head, strict=True)
        forward = [0 if self.makespan and head >= tick else ticks for ticks, head in ticks_and_heads]
        return tick - self._most(forward, waiting=False)

    def _until_gradient(self, stage: int) -> int:
        """Return the ticks before which no gradient op of a stage can start: from 0, for the span from the first F."""
        if self.makespan:
            return self.costs.head[stage] + self.costs.turn[stage]
        ways = [self.costs.ways(other)[stage][0] for other in self.stages if stage in self.costs.ways(other)]
        return max(ways) + self.costs.turn[stage]

    def _end(self, stage: int) -> int:
        """Return the ticks from the start of F on a stage to the last end that must follow from it."""
        costs = self.costs
        before = range(costs.problem.total_stages) if self.makespan else self.stages
        back = [costs.ways(u)[stage][1] for u in before if u != stage and stage in costs.ways(u)]
        return costs.turn[stage] + max([costs.backward[stage], *(costs.gradient[stage] + ticks for ticks in back)])

    def _is_last(self, stage: int) -> bool:
        """Whether a stage leads to no other of the rank, so that the last F can be one of it."""
        return all(other == stage or other not in self.costs.ways(stage) for other in self.stages)

    def _all_fit(self) -> bool:
        """Whether all micro-batches of all stages can be in flight here together."""
        problem, count = self.costs.problem, self.costs.count
        saved = sum(count[stage] * problem.saved_activation_bytes[stage] for stage in self.stages)
        return (
            (self.room is None or saved <= self.room)
            and (self.limit is None or sum(count[stage] for stage in self.stages) <= self.limit)
            and all(self._admitted(stage) == count[stage] for stage in self.stages)
        )

    def _admitted(self, stage: int) -> int:
        """Return how many micro-batches of a stage can be in flight here at once, if nothing else is."""
        limits = [self.costs.count[stage]]
        limits += [self.limit] if self.limit is not None else []
        limits += [self.stage_limits[stage]] if self.stage_limits is not None else []
        saved = self.costs.problem.saved_activation_bytes[stage]
        limits += [self.room // saved] if self.room is not None and saved else []
        return min(limits)

    def _most(self, ticks: Sequence[int], *, waiting: bool) -> int:
        """Return the most ticks of work that can go with what the rank holds at once.

        Parameters
        ----------
        ticks
            By stage, the work that goes with each micro-batch in flight, shape (stages,).
        waiting
            Whether to count also the rest of the backward of each micro-batch that waits for its W.
        """
        problem, costs = self.costs.problem, self.costs
        in_flight = [
            (problem.saved_activation_bytes[stage], ticks[stage], self._admitted(stage)) for stage in self.stages
        ]
        waits = self.stages if waiting and problem.form == "split" else ()
        stashed = [(problem.weight_stash[stage], costs.rest[stage], costs.count[stage]) for stage in waits]
        rest = sum(work * number for _, work, number in stashed)
        bounds = [sum(work * number for _, work, number in in_flight) + rest]
        if self.room is not None:
            bounds.append(_fill([*in_flight, *stashed], self.room))
        if self.limit is not None:
            bounds.append(_fill([(1, work, number) for _, work, number in in_flight], self.limit) + rest)
        return min([*bounds, sum(ticks[stage] * costs.count[stage] for stage in self.stages)])


def _fill(items: Sequence[Item], room: int) -> int:
    """Return the most work of a selection that fits: the fractional knapsack, densest first, the last one in part.

    Dantzig, Discrete-variable extremum problems, Operations Research 5 (1957).
    """
    total, free = Fraction(0), Fraction(room)
    densest = sorted(items, key=lambda item: Fraction(-item[1], item[0]) if item[0] else Fraction(-(1 << 62)))
    for size, work, number in densest:
        taken = Fraction(number) if not size else min(Fraction(number), free / size)
        total += taken * work
        free -= taken * size
    return int(total)
