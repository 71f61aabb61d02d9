"""Lower bounds on the peak memory, the most bytes that any rank holds. Each comes with evidence to check it by.

The words are those of :mod:`~schedverify.optimizer.bounds.formulas`; ``kept`` is what a stage holds from its F on, the
activation, or the boundary of a stage that recomputes.
"""

from __future__ import annotations

from collections.abc import Iterator

from schedverify.core.problem import Problem
from schedverify.core.problem.checks import least_capacity
from schedverify.optimizer.bounds.costs import Costs
from schedverify.optimizer.bounds.formulas import Bound

Ceiling = tuple[str, int]
"""``makespan`` or ``span``, and the ticks that it must not pass."""


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
        yield Bound(value, {"rule": "sequence", "rank": rank, "objective": "peak-memory", "bound": value})


def admission_bounds(costs: Costs, ceiling: Ceiling) -> Iterator[Bound]:
    """Yield for each stage that is alone on its rank what the F hold that must run before its first gradient op.

    The first half of :func:`~schedverify.optimizer.bounds.formulas.idle_bounds`, read the other way round. Where only
    ``k`` F of stage ``s`` run before its first gradient op, ``span >= n (F + A) + turn - k F``, and the makespan has
    ``head(s)`` before it. So under a ceiling at least ``k = (head + n (F + A) + turn - ceiling) / F`` of them run
    first, rounded up (without head for the span), at least 1 and at most n. All are held when that gradient op starts:
    ``static + (k - 1) * kept + max(activation, kept)``.

    Evidence: ``{"rule": "memory", "stage": s}``, for the ceiling that the problem or the plan names.
    """
    problem, (measure, most) = costs.problem, ceiling
    for stage, (rank, *_) in enumerate(problem.placement if costs.trains else ()):
        if problem.stages_of[rank] != (stage,) or not costs.count[stage] or not costs.forward[stage]:
            continue
        ticks = costs.work[stage] + costs.turn[stage] + (costs.head[stage] if measure == "makespan" else 0)
        first = min(max(1, -(-(ticks - most) // costs.forward[stage])), costs.count[stage])
        held = (first - 1) * problem.kept[stage] + max(problem.activation[stage], problem.kept[stage])
        value = problem.static[rank] + held
        yield Bound(value, {"rule": "memory", "stage": stage, "objective": "peak-memory", "bound": value})
