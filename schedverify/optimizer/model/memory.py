"""Rules of memory: micro-batches in flight and bytes, as precedences where that can be, else as a resource.

Where a stage stands alone on a rank and its micro-batches go first in, first out, what the rank holds follows from how
many F, gradient ops and W came before, and a limit is a precedence: at most K in flight is
``start(F, i + K) >= end(B, i)``. A solver reasons far better on these than on a resource with a level.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from schedverify.optimizer.model import shared_memory
from schedverify.optimizer.model.shared_memory import Amounts
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.tasks import Node, ancestors

Holding = tuple[Node, str, Node, str, int]
"""Something held from the start or end of one step to the start or end of another, and how much."""


def in_flight_on_ranks(model: OrderModel) -> None:
    """A rank has no more micro-batches in flight, over all its stages, than its limit."""
    limits = model.problem.in_flight
    if limits is None or not model.tasks.trains:
        return
    for stages, limit in zip(model.problem.stages_of, limits, strict=True):
        one = [1] * model.problem.total_stages
        _at_most(model, stages, one, limit)
        if _alone(model, stages):
            continue
        if shared_memory.takes(model, stages):
            shared_memory.hold_at_most(model, stages, Amounts(one, [0] * model.problem.total_stages), limit)
        else:
            _resource(model, _in_flight(model, stages), limit)


def in_flight_on_stages(model: OrderModel) -> None:
    """A stage has no more micro-batches in flight than its limit."""
    limits = model.problem.in_flight_stage
    if limits is None or not model.tasks.trains:
        return
    for stage, limit in enumerate(limits):
        _at_most(model, (stage,), [1] * model.problem.total_stages, limit)
        if not _alone(model, (stage,)):
            _resource(model, _in_flight(model, (stage,)), limit)


def bytes_within_capacity(model: OrderModel) -> None:
    """A rank never holds more bytes than its capacity (semantics, SV402)."""
    problem = model.problem
    if problem.capacity is None or not model.tasks.trains:
        return
    for rank, stages in enumerate(problem.stages_of):
        room = problem.capacity[rank] - problem.static[rank]
        _at_most(model, stages, problem.kept, room)
        if len(stages) > 1 and shared_memory.takes(model, stages):
            shared_memory.hold_at_most(model, stages, Amounts(problem.kept, problem.weight_stash), room)
        elif not _alone(model, stages) or stages[0] in model.tasks.mixed:
            _resource(model, _bytes(model, stages), room)
        elif not model.tasks.splits:
            _repeated_forward(model, stages[0], room)
        elif problem.recompute[stages[0]]:
            _resource(model, _bytes(model, stages), room)
        else:
            _stash(model, stages[0], room)


def _alone(model: OrderModel, stages: Sequence[int]) -> bool:
    """Whether the micro-batches of these stages make one line."""
    return len(stages) == 1 and model.problem.slices == 1 and "fifo" not in model.without


def _at_most(model: OrderModel, stages: Sequence[int], amounts: Sequence[int], room: int) -> None:
    """Limit how many micro-batches of each stage are in flight by what each of them holds.

    A micro-batch in flight on a stage is in flight on every stage before it as well, since their gradient ops wait for
    this one's; so with the stages A before it on the same rank, ``room // sum(amounts of A and the stage)`` is the
    most. For a stage that stands alone this is the whole rule, beside others it is implied and helps.
    """
    if "fifo" in model.without or model.problem.slices > 1:
        return
    above = ancestors(model.problem)
    for stage in stages:
        shared_memory = amounts[stage] + sum(amounts[other] for other in above[stage].intersection(stages))
        if shared_memory:
            _queue(model, stage, max(1, room // shared_memory))


def _queue(model: OrderModel, stage: int, most: int) -> None:
    """Let each F wait for the gradient op of the micro-batch ``most`` before it."""
    passing = model.tasks.passing[stage]
    for earlier, later in zip(passing, passing[most:], strict=False):
        model.after(("F", stage, later), ("G", stage, earlier))


def _repeated_forward(model: OrderModel, stage: int, room: int) -> None:
    """Leave room for the whole activation while a lone recomputing stage runs its B.

    With n in flight then, this one included, the rank holds ``(n - 1) * boundary + activation``.
    """
    boundary = model.problem.boundary[stage]
    if model.problem.recompute[stage] and boundary and "recomputation" not in model.without:
        _queue(model, stage, 1 + (room - model.problem.activation[stage]) // boundary)


def _stash(model: OrderModel, stage: int, room: int) -> None:
    """Bound the bytes of a lone stage with a split backward at each F, the only step that adds any.

    F number k (from 0) starts with ``activation * (k + 1 - i) + weight_stash * (i - w)`` bytes held, where i I and w W
    have ended. This falls with i. So if I number a has not ended (i <= a), at least
    ``w(a) = ceil((activation * (k + 1 - a) + weight_stash * a - room) / weight_stash)`` W must have: either I number a
    comes before F number k, or W number w(a) - 1 does; if w(a) > a, I must. Of all a with the same w(a) the largest
    implies the others.
    """
    passing = model.tasks.passing[stage]
    full, left = model.problem.activation[stage], model.problem.weight_stash[stage]
    for k, m in enumerate(passing):
        needs = [(a, full * (k + 1 - a) + left * a - room) for a in range(k + 1)]
        wanted = {-(-excess // left) if left and excess <= left * a else k + 2: a for a, excess in needs if excess > 0}
        for count, a in wanted.items():
            if count > k + 1:
                model.after(("F", stage, m), ("G", stage, passing[a]))
            elif a == k:
                model.after(("F", stage, m), ("W", stage, passing[count - 1]))
            else:
                model.after_either(("F", stage, m), ("G", stage, passing[a]), ("W", stage, passing[count - 1]))


def _in_flight(model: OrderModel, stages: Iterable[int]) -> list[Holding]:
    return [
        (("F", stage, m), "start", ("G", stage, m), "end", 1) for stage in stages for m in model.tasks.passing[stage]
    ]


def _bytes(model: OrderModel, stages: Iterable[int]) -> list[Holding]:
    """Return what the micro-batches of these stages hold, and from when to when."""
    problem, holdings = model.problem, []
    for stage in stages:
        full, left = problem.activation[stage], problem.weight_stash[stage]
        for m in model.tasks.passing[stage]:
            f, g, w = ("F", stage, m), ("G", stage, m), ("W", stage, m)
            if problem.recompute[stage] and "recomputation" not in model.without:
                holdings += [(f, "start", g, "start", problem.boundary[stage]), (g, "start", g, "end", full)]
            else:
                holdings += [(f, "start", g, "end", problem.kept[stage])]
            if model.tasks.splits:
                holdings += [(g, "end", w, "end", left)]
    return holdings


def _resource(model: OrderModel, holdings: list[Holding], room: int) -> None:
    """Let what is held at any moment stay within ``room``."""
    if sum(amount for *_, amount in holdings) > room:
        counted = [holding for holding in holdings if holding[-1]]
        intervals = [model.held(first, begin, last, finish) for first, begin, last, finish, _ in counted]
        model.cp.add_cumulative(intervals, [amount for *_, amount in counted], room)
