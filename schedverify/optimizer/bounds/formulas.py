"""Lower bounds by formula, on makespan, span and peak memory. Each comes with evidence to check it by.

In all of them, for a stage ``s``: ``n`` is the number of micro-batches that go through it, ``F`` its forward; ``G`` the
least ticks of an op that makes its gradient (B in a fused problem, the lesser of B and I in a split one); ``A`` the
least ticks of its whole backward (B; the lesser of B and I + W). G and A include the second forward of a stage that
recomputes. ``lag`` is latency and occupation between the first ranks of two stages, 0 within one.

None of them names a micro-batch, so all hold for every order, placement and stage graph, with copies and slices too.
They do not hold where an overlapped pair costs less than its two operations.

The span of an order is ``T`` at most where some timeline of it, in which first steps may wait, has every rank's steps
within ``T`` ticks. So each rule for the span bounds what one rank needs from its first start to its last end, and uses
nothing of a timeline but that steps wait for their inputs and exclude each other: that holds of every timeline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import takewhile
from typing import Any, Final

from schedverify.core.problem import Problem
from schedverify.core.problem.checks import least_capacity
from schedverify.optimizer.bounds.costs import Costs
from schedverify.optimizer.bounds.idle import ticks_with_idle_time

Ceiling = tuple[str, int]
"""``makespan`` or ``span``, and the ticks that it must not pass."""


@dataclass(frozen=True)
class Bound:
    """A number of ticks that no schedule can go below, and the evidence for it."""

    value: int
    evidence: dict[str, Any]


def best_bound(problem: Problem, objective: str, over: Callable[[], bool] = lambda: False) -> Bound | None:
    """Return the highest of all bounds on the makespan or span, or of those that were known when it was ``over()``.

    None where there is nothing to run, or none was known.
    """
    costs = Costs(problem)
    bounds = (bound for bounds_of in TIME_BOUNDS for bound in bounds_of(costs, objective))
    return max(takewhile(lambda _: not over(), bounds), key=lambda bound: bound.value, default=None)


def load_bounds(costs: Costs, objective: str) -> Iterator[Bound]:
    """Yield for each rank its work, with what must come before and after it.

    ``span >= work`` with ``work = sum over the rank's stages of n (F + A)``, since a rank runs one step at a time, in
    every timeline.

    ``makespan >= min head + work + min tail`` over the rank's stages. ``head(s)`` is the longest path of forwards
    (``F + lag`` for each stage on it) that leads to ``s``: nothing runs on ``s`` before. ``tail(s)`` is what must
    follow the last step if it is one of ``s``: in a fused problem the longest path of backwards (``lag + B``) from
    ``s`` back to a stage that nothing feeds; in inference the longest path of forwards (``lag + F``) behind it; 0 in a
    split problem, where the last step may be a W, which nobody waits for.

    Evidence: ``{"rule": "load", "rank": r}``.
    """
    for rank, row in enumerate(costs.problem.stages_of):
        stages = [stage for stage in row if costs.count[stage]]
        value = sum(costs.work[stage] for stage in stages)
        if stages and objective == "makespan":
            value += min(costs.head[stage] for stage in stages) + min(costs.tail[stage] for stage in stages)
        yield _bound("load", objective, value, rank=rank)


def pair_bounds(costs: Costs, objective: str) -> Iterator[Bound]:
    """Yield for each pair of stages, of which the first feeds the second, the way there, its load, and the way back.

    Measured from the first start of F on ``s``, no F starts on ``t`` before ``ahead``, the longest path of forwards
    from F of ``s`` to F of ``t``. From there to the end of the last gradient op of ``t``, its rank runs all F and
    gradient ops of ``t``: ``n (F + G)``. That last one's gradient then needs ``back``, the longest path of backwards
    (``lag + G`` each) to ``s``, where the whole backward counts, so ``A`` in place of ``G``. All of it lies between
    the first start and the last end of every rank of ``s``, in every timeline, however long the rank of ``t`` waits:
    hence ``span >= ahead + n (F_t + G_t) + back``; the makespan also has ``head(s)`` before it. For ``s = t`` it is
    ``n (F + A)``. On a chain with equal lags c: ``sum of (F + G + 2c) over s..t-1, plus n (F_t + G_t) + W_s`` (Zero
    Bubble, arXiv 2401.10241, has it for s = 0).

    Evidence: ``{"rule": "pair", "stages": [s, t]}``.
    """
    if not costs.trains:
        return
    for start in range(costs.problem.total_stages):
        lead = costs.head[start] if objective == "makespan" else 0
        if not costs.count[start]:
            continue
        for end, (ahead, back) in costs.ways(start).items():
            load = costs.work[end] if end == start else costs.count[end] * (costs.forward[end] + costs.gradient[end])
            yield _bound("pair", objective, lead + ahead + load + back, stages=[start, end])


def idle_bounds(costs: Costs, objective: str) -> Iterator[Bound]:
    """Yield for each rank its work and the idle time that its limits force on it, in training.

    The formula and why it holds: :func:`~schedverify.optimizer.bounds.idle.ticks_with_idle_time`.

    Evidence: ``{"rule": "idle", "rank": r}``.
    """
    for rank, value in ticks_with_idle_time(costs, objective):
        yield _bound("idle", objective, value, rank=rank)


TIME_BOUNDS: Final[tuple[Callable[[Costs, str], Iterator[Bound]], ...]] = (load_bounds, pair_bounds, idle_bounds)
"""All rules for the makespan and the span: each takes the costs and the objective."""


def best_peak_bound(problem: Problem, ceiling: Ceiling | None = None) -> Bound:
    """Return the highest of all bounds on the peak memory, under the problem's makespan limit and another ceiling."""
    costs = Costs(problem)
    ceilings = [ceiling] if ceiling else []
    if problem.makespan_limit is not None:
        ceilings.append(("makespan", problem.makespan_limit))
    bounds = [*sequence_bounds(costs), *(bound for each in ceilings for bound in admission_bounds(costs, each))]
    return max(bounds, key=lambda bound: bound.value)


def sequence_bounds(costs: Costs) -> Iterator[Bound]:
    """Yield for each rank the bytes of one sequence at the deepest point of its way, which every order meets.

    When the gradient op of the last part of a sequence starts on a stage, none of its gradient ops has run on that
    stage, nor on any stage that leads to it. So ``static + slices * (kept of the stages on this rank that lead to it)
    + (slices - 1) * kept + max(activation, kept)`` is held, with kept and activation of the stage itself. In inference
    nothing is held but what runs: ``static + kept``.

    Evidence: ``{"rule": "sequence", "rank": r}``.
    """
    for rank, value in enumerate(least_capacity(costs.problem)):
        yield _bound("sequence", "peak-memory", value, rank=rank)


def admission_bounds(costs: Costs, ceiling: Ceiling) -> Iterator[Bound]:
    """Yield for each stage that is alone on its rank what the F hold that must run before its first gradient op.

    The first half of :func:`~schedverify.optimizer.bounds.formulas.idle_bounds`, read the other way round. Where only
    ``k`` F of stage ``s`` run before its first gradient op, its rank needs ``n (F + A) + turn - k F`` ticks from its
    first start to its last end in every timeline, so the span is no less, and the makespan has ``head(s)`` before it.
    So under a ceiling at least ``k = (head + n (F + A) + turn - ceiling) / F`` of them run first, rounded up (without
    head for the span), at least 1 and at most n. All are held when that gradient op starts: ``static + (k - 1) * kept
    + max(activation, kept)``.

    Evidence: ``{"rule": "memory", "stage": s}``, for the ceiling that the problem or the plan names.
    """
    problem, (measure, most) = costs.problem, ceiling
    for stage, (rank, *_) in enumerate(problem.placement if costs.trains else ()):
        if problem.stages_of[rank] != (stage,) or not costs.count[stage] or not costs.forward[stage]:
            continue
        ticks = costs.work[stage] + costs.turn[stage] + (costs.head[stage] if measure == "makespan" else 0)
        first = min(max(1, -(-(ticks - most) // costs.forward[stage])), costs.count[stage])
        saved = (first - 1) * problem.saved_activation_bytes[stage] + max(
            problem.activation[stage], problem.saved_activation_bytes[stage]
        )
        yield _bound("memory", "peak-memory", problem.static[rank] + saved, stage=stage)


def _bound(rule: str, objective: str, value: int, **place: Any) -> Bound:
    return Bound(value, {"rule": rule, **place, "objective": objective, "bound": value})
