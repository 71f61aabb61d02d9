"""Idle time that nobody can avoid: how long a rank must wait because it may not hold more.

The words are those of :mod:`schedverify.optimizer.bounds.formulas`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from fractions import Fraction

from schedverify.optimizer.bounds.costs import Costs

Item = tuple[int, int, int]
"""Something a rank may hold: bytes for each, the ticks of work that go with it, and how many there can be."""


def ticks_with_idle_time(costs: Costs, objective: str) -> Iterator[tuple[int, int]]:
    """Yield each rank with its work and the idle time around its first gradient op and its last F, in ticks.

    *Begin.* Until a rank's first gradient op it can run nothing but F, and all of these are in flight at once. That op
    is of some stage ``s`` of the rank; it starts no earlier than ``head(s) + turn(s)``, ``turn(s)`` being the longest
    path of forwards from the start of F on ``s`` down to a stage that feeds none, and of gradient ops back to ``s``. So
    of the first ``min (head + turn)`` ticks at most ``most F`` are work: the most ticks of F that bytes and limits
    admit in flight together. Nor does any F of a stage run before its head. So for each tick ``t`` that is this one, or
    the head of a stage of the rank that is no later,

        T >= begin + sum of n (F + A),    begin = max over t of t - (most F of the stages with a head before t).

    At the least head that is the head itself. For the span the clock starts with the first F of the rank, so that
    ``head(s)`` is the longest way from a stage of the rank to ``s``, and ``t`` is the one tick, with all stages' F.

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
        passing = [stage for stage in stages if costs.count[stage]]
        if costs.trains and passing:
            yield rank, _Rank(costs, rank, passing, objective).bound()


class _Rank:
    """One rank with the stages that micro-batches go through."""

    def __init__(self, costs: Costs, rank: int, stages: Sequence[int], objective: str) -> None:
        self.costs = costs
        self.stages = stages
        self.makespan = objective == "makespan"
        problem = costs.problem
        self.room = None if problem.capacity is None else problem.capacity[rank] - problem.static[rank]
        self.limit = None if problem.in_flight is None else problem.in_flight[rank]
        self.stage_limits = problem.in_flight_stage
        self.work = sum(costs.work[stage] for stage in stages)

    def bound(self) -> int:
        """Return what follows for the makespan or the span."""
        turned = min(map(self._until_gradient, self.stages))
        heads = [self.costs.head[stage] for stage in self.stages if self.costs.head[stage] <= turned]
        lead = max(map(self._idle_until, heads)) if self.makespan else 0
        begin = max(lead, self._idle_until(turned))
        left = self._most(self.costs.backward, waiting=True)
        ends = [self._end(stage) - self.costs.forward[stage] - left for stage in self.stages if self._is_last(stage)]
        return max(self.work + begin, self.work + (lead if self._all_fit() else begin) + min(ends))

    def _idle_until(self, tick: int) -> int:
        """Return the ticks before ``tick`` in which there is nothing to run, where no gradient op can start earlier."""
        costs = self.costs
        late = [self.makespan and head >= tick for head in costs.head]
        early = [0 if waits else forward for forward, waits in zip(costs.forward, late, strict=True)]
        return tick - self._most(early, waiting=False)

    def _until_gradient(self, stage: int) -> int:
        """Return the ticks before which no gradient op of a stage can start: from 0, or from the first F here."""
        if self.makespan:
            return self.costs.head[stage] + self.costs.turn[stage]
        ways = [self.costs.ways(other)[stage][0] for other in self.stages if stage in self.costs.ways(other)]
        return max(ways) + self.costs.turn[stage]

    def _end(self, stage: int) -> int:
        """Return the ticks from the start of F on a stage to the last end that must follow from it."""
        costs = self.costs
        before = range(costs.problem.total_stages) if self.makespan else self.stages
        after = [
            costs.gradient[stage] + costs.ways(u)[stage][1] for u in before if u != stage and stage in costs.ways(u)
        ]
        return costs.turn[stage] + max([costs.backward[stage], *after])

    def _is_last(self, stage: int) -> bool:
        return all(other == stage or other not in self.costs.ways(stage) for other in self.stages)

    def _all_fit(self) -> bool:
        """Whether all micro-batches of all stages can be in flight here together."""
        problem, count = self.costs.problem, self.costs.count
        held = sum(count[stage] * problem.kept[stage] for stage in self.stages)
        return (
            (self.room is None or held <= self.room)
            and (self.limit is None or sum(count[stage] for stage in self.stages) <= self.limit)
            and all(self._admitted(stage) == count[stage] for stage in self.stages)
        )

    def _admitted(self, stage: int) -> int:
        """Return how many micro-batches of a stage can be in flight here at once, if nothing else is."""
        limits = [self.costs.count[stage]]
        limits += [self.limit] if self.limit is not None else []
        limits += [self.stage_limits[stage]] if self.stage_limits is not None else []
        kept = self.costs.problem.kept[stage]
        limits += [self.room // kept] if self.room is not None and kept else []
        return min(limits)

    def _most(self, ticks: Sequence[int], *, waiting: bool) -> int:
        """Return the most ticks of work that can go with what the rank holds at once: so many for each in flight.

        With ``waiting``, also the rest of the backward of each that waits for its W.
        """
        problem, costs = self.costs.problem, self.costs
        flying = [(problem.kept[stage], ticks[stage], self._admitted(stage)) for stage in self.stages]
        idle = [
            (problem.weight_stash[stage], costs.rest[stage], costs.count[stage])
            for stage in (self.stages if waiting and problem.form == "split" else ())
        ]
        known = [ticks[stage] * self._admitted(stage) for stage in self.stages]
        bounds = [sum(known) + sum(work * number for _, work, number in idle)]
        if self.room is not None:
            bounds.append(_fill([*flying, *idle], self.room))
        if self.limit is not None:
            bounds.append(
                _fill([(1, work, number) for _, work, number in flying], self.limit)
                + sum(work * number for _, work, number in idle)
            )
        return min([*bounds, sum(ticks[stage] * costs.count[stage] for stage in self.stages)])


def _fill(items: Sequence[Item], room: int) -> int:
    """Return what the work of a selection that fits can be at most: the dearest first, the last one in part."""
    total, left = Fraction(0), Fraction(room)
    for size, work, number in sorted(
        items, key=lambda item: Fraction(-item[1], item[0]) if item[0] else Fraction(-(1 << 62))
    ):
        taken = Fraction(number) if not size else min(Fraction(number), left / size)
        total += taken * work
        left -= taken * size
    return int(total)
