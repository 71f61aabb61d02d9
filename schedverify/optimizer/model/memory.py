"""Rules of memory: micro-batches in flight and bytes, as precedences where that can be, else as a resource.

Where a stage stands alone on a rank and its micro-batches go first in, first out, what the rank holds follows from how
many F, GRAD and W came before, and a limit is a chain of precedences: at most K in flight is
``start(F, i + K) >= end(GRAD, i)``, as in a queue with K places. With K = 2::

    F       0   1   2   3   4
                    ^   ^   ^       F 2 takes the place that GRAD 0 leaves, F 3 that of GRAD 1, ...
    GRAD            0   1   2

Where several stages share a rank, each of its steps comes before or after each F there; one boolean says which. What
the rank holds at that F is a sum of booleans, and a limit is one inequality for each F (:func:`limit_shared_rank`).
What remains is a resource with a level (:func:`limit_resource`), on which a solver reasons far worse.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from schedverify.core.ending import checked
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.tasks import Node, ancestors

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

MOST_BOOLEANS: Final = 200_000
"""With more booleans than this for shared ranks the model would be too large; their limits are then resources."""

Holding = tuple[Node, str, Node, str, int]
"""Something held from the start or end of one step to the start or end of another, and how much."""


def in_flight_on_ranks(model: OrderModel) -> None:
    """A rank has no more micro-batches in flight, over all its stages, than its limit."""
    limits = model.problem.in_flight
    if limits is None or not model.tasks.trains:
        return
    for stages, limit in zip(model.problem.stages_of, limits, strict=True):
        ones = [1] * model.problem.total_stages
        _limit_each_stage(model, stages, ones, limit)
        if not _alone(model, stages) and counts_steps(model, stages):
            limit_shared_rank(model, stages, ones, [0] * model.problem.total_stages, limit)
        elif not _alone(model, stages):
            limit_resource(model, _in_flight_holdings(model, stages), limit)


def in_flight_on_stages(model: OrderModel) -> None:
    """A stage has no more micro-batches in flight than its limit."""
    limits = model.problem.in_flight_stage
    if limits is None or not model.tasks.trains:
        return
    for stage, limit in enumerate(limits):
        _limit_each_stage(model, (stage,), [1] * model.problem.total_stages, limit)
        if not _alone(model, (stage,)):
            limit_resource(model, _in_flight_holdings(model, (stage,)), limit)


def bytes_within_capacity(model: OrderModel) -> None:
    """A rank never holds more bytes than its capacity (semantics, SV402)."""
    problem = model.problem
    if problem.capacity is None or not model.tasks.trains:
        return
    for rank, stages in enumerate(problem.stages_of):
        room = problem.capacity[rank] - problem.static[rank]
        _limit_each_stage(model, stages, problem.saved_activation_bytes, room)
        one_form = _alone(model, stages) and stages[0] not in model.tasks.mixed
        if len(stages) > 1 and counts_steps(model, stages):
            limit_shared_rank(model, stages, problem.saved_activation_bytes, problem.weight_stash, room)
        elif one_form and not model.tasks.splits:
            limit_recomputing_stage(model, stages[0], room)
        elif one_form and not problem.recompute[stages[0]]:
            limit_split_stage(model, stages[0], room)
        else:
            limit_resource(model, _byte_holdings(model, stages), room)


def _alone(model: OrderModel, stages: Sequence[int]) -> bool:
    """Whether the micro-batches of these stages make one line."""
    return len(stages) == 1 and model.problem.slices == 1 and "fifo" not in model.without


def _limit_each_stage(model: OrderModel, stages: Sequence[int], amounts: Sequence[int], room: int) -> None:
    """Limit how many micro-batches of each stage are in flight by what each of them holds.

    A micro-batch in flight on a stage is in flight on every stage before it as well, since their gradient ops wait for
    this one's; so with the stages A before it on the same rank, ``room // sum(amounts of A and the stage)`` is the
    most. For a stage that stands alone this is the whole rule, beside others it is implied and helps.
    """
    if "fifo" in model.without or model.problem.slices > 1:
        return
    above = ancestors(model.problem)
    for stage in stages:
        in_line = amounts[stage] + sum(amounts[other] for other in above[stage].intersection(stages))
        if in_line:
            _queue(model, stage, max(1, room // in_line))


def _queue(model: OrderModel, stage: int, most: int) -> None:
    """Let each F wait for the gradient op of the micro-batch ``most`` before it."""
    microbatches = model.tasks.microbatches_of[stage]
    for earlier, later in zip(microbatches, microbatches[most:], strict=False):
        model.after(("F", stage, later), ("GRAD", stage, earlier))


def limit_recomputing_stage(model: OrderModel, stage: int, room: int) -> None:
    """Leave room for the whole activation while a lone recomputing stage runs its B.

    With n in flight then, this one included, the rank holds ``(n - 1) * boundary + activation``.
    """
    boundary = model.problem.boundary[stage]
    if model.problem.recompute[stage] and boundary and "recomputation" not in model.without:
        _queue(model, stage, 1 + (room - model.problem.activation[stage]) // boundary)


def limit_split_stage(model: OrderModel, stage: int, room: int) -> None:
    """Bound the bytes of a lone stage with a split backward at each F, the only step that adds any.

    F number k (from 0) starts with ``activation * (k + 1 - i) + weight_stash * (i - w)`` bytes held, where i I and w W
    have ended. This falls with i. So if I number a has not ended (i <= a), at least
    ``w(a) = ceil((activation * (k + 1 - a) + weight_stash * a - room) / weight_stash)`` W must have: either I number a
    comes before F number k, or W number w(a) - 1 does; if w(a) > a, I must. Of all a with the same w(a) the largest
    implies the others. With activation 3, weight stash 1 and room for 9 bytes, F number 4 needs::

        I not ended: a    0   1   2   3   4
        W ended: w(a)     6   4   2   0   -     w(a) > a for 0 and 1: I 1 comes before F 4, whatever W do;
                                                a = 2: I 2 does, or W 1 does; the others ask nothing more
    """
    microbatches = model.tasks.microbatches_of[stage]
    full, stash = model.problem.activation[stage], model.problem.weight_stash[stage]
    for k, m in enumerate(checked(microbatches, model.check)):
        excesses = [(a, full * (k + 1 - a) + stash * a - room) for a in range(k + 1)]
        needed = {
            -(-excess // stash) if stash and excess <= stash * a else k + 2: a for a, excess in excesses if excess > 0
        }
        for count, a in needed.items():
            if count > k + 1:
                model.after(("F", stage, m), ("GRAD", stage, microbatches[a]))
                continue
            gradient, weight = ("GRAD", stage, microbatches[a]), ("W", stage, microbatches[count - 1])
            if a == k:
                model.after(("F", stage, m), weight)
            else:
                model.after_either(("F", stage, m), gradient, weight)


def _in_flight_holdings(model: OrderModel, stages: Collection[int]) -> list[Holding]:
    pairs = [pair for pair in model.tasks.pairs if pair[0] in stages]
    return [(("F", *pair), "start", ("GRAD", *pair), "end", 1) for pair in pairs]


def _byte_holdings(model: OrderModel, stages: Iterable[int]) -> list[Holding]:
    """Return what the micro-batches of these stages hold, and from when to when."""
    problem, holdings = model.problem, []
    for stage in stages:
        full, stash = problem.activation[stage], problem.weight_stash[stage]
        for m in model.tasks.microbatches_of[stage]:
            f, g, w = ("F", stage, m), ("GRAD", stage, m), ("W", stage, m)
            if problem.recompute[stage] and "recomputation" not in model.without:
                holdings += [(f, "start", g, "start", problem.boundary[stage]), (g, "start", g, "end", full)]
            else:
                holdings += [(f, "start", g, "end", problem.saved_activation_bytes[stage])]
            if model.tasks.splits:
                holdings += [(g, "end", w, "end", stash)]
    return holdings


def limit_resource(model: OrderModel, holdings: list[Holding], room: int) -> None:
    """Let what is held at any moment stay within ``room``, as a cumulative resource."""
    if sum(amount for *_, amount in holdings) > room:
        counted = [holding for holding in holdings if holding[-1]]
        intervals = [model.holding_interval(first, begin, last, finish) for first, begin, last, finish, _ in counted]
        model.cp.add_cumulative(intervals, [amount for *_, amount in counted], room)


def counts_steps(model: OrderModel, stages: Sequence[int]) -> bool:
    """Whether :func:`limit_shared_rank` holds for these stages, and the booleans of all ranks are few enough.

    Their steps must go first in, first out, and nothing but an F may add to what is held.
    """
    problem, tasks = model.problem, model.tasks
    fifo = "fifo" not in model.without and problem.slices == 1 and tasks.trains
    only_f_adds = not tasks.mixed.intersection(stages) and not any(problem.recompute[stage] for stage in stages)
    pairs = sum(len(of) * sum(len(tasks.microbatches_of[stage]) for stage in of) ** 2 for of in problem.stages_of)
    return fifo and only_f_adds and pairs <= MOST_BOOLEANS


def limit_shared_rank(
    model: OrderModel, stages: Sequence[int], saved: Sequence[int], stash: Sequence[int], room: int
) -> None:
    """Keep what a rank with these stages holds at each F within ``room``.

    Only an F adds, and what it adds counts from its start, so nothing else need be looked at: at F number ``k`` (from
    0) of stage ``s`` the rank holds ``saved(s) (k + 1)``, and for each other stage ``u`` ``saved(u)`` for every F
    before it; less ``saved(u) - stash(u)`` for every GRAD, and ``stash(u)`` for every W, of all stages, before it.

    Parameters
    ----------
    saved, stash
        By stage, what each F adds to what is held, and how much of that stays from the end of GRAD to the end of W.
    room
        What the rank may hold.
    """
    earlier = _PrecedenceBooleans(model)
    for stage in stages:
        for number, m in enumerate(checked(model.tasks.microbatches_of[stage], model.check)):
            certain = saved[stage] * (number + 1)
            terms: list[tuple[int, cp_model.IntVar]] = []
            for change, step in _changes(model, stages, stage, saved, stash):
                known = earlier.known(step, ("F", stage, m))
                certain += change if known else 0
                if known is None:
                    terms.append((change, earlier.boolean(step, ("F", stage, m))))
            if certain + sum(change for change, _ in terms if change > 0) > room:
                model.cp.add(sum(change * boolean for change, boolean in terms) <= room - certain)
    earlier.add_fifo_implications()


def _changes(
    model: OrderModel, stages: Sequence[int], of: int, saved: Sequence[int], stash: Sequence[int]
) -> Iterator[tuple[int, Node]]:
    """Yield every step of a rank that changes what an F of the stage ``of`` finds held, and by how much."""
    for stage in stages:
        whole, part = saved[stage], stash[stage] if model.tasks.splits else 0
        for m in model.tasks.microbatches_of[stage]:
            if stage != of and whole:
                yield whole, ("F", stage, m)
            if whole != part:
                yield part - whole, ("GRAD", stage, m)
            if part:
                yield -part, ("W", stage, m)


class _PrecedenceBooleans:
    """Whether a step ends before an F of the same rank starts; what is not known is a boolean of the model."""

    def __init__(self, model: OrderModel) -> None:
        self.model = model
        self.above = ancestors(model.problem)
        self.booleans: dict[tuple[Node, Node], cp_model.IntVar] = {}

    def known(self, step: Node, forward: Node) -> bool | None:
        """Return what holds in every first-in-first-out order; None where both can be.

        Within one stage, and from an F to the gradient op of a stage above, dependencies lead along the micro-batch.
        """
        (letter, of, m), (_, stage, other) = step, forward
        if letter == "F" and of in self.above[stage]:
            return True if m <= other else None
        below = stage == of or stage in self.above[of] or of in self.above[stage]
        return False if below and m >= other else None

    def boolean(self, step: Node, forward: Node) -> cp_model.IntVar:
        """Return the boolean that says whether the step comes before the F."""
        if (step, forward) not in self.booleans:
            before = self.booleans[step, forward] = self.model.starts_after(forward, step)
            self.model.cp.add(self.model.start[step] >= self.model.end(forward)).only_enforce_if(~before)
        return self.booleans[step, forward]

    def add_fifo_implications(self) -> None:
        """Add what follows from first in, first out: a step before an F is before the next F, and so is its elder."""
        following = {
            (stage, m): after
            for stage, microbatches in enumerate(self.model.tasks.microbatches_of)
            for m, after in pairwise(microbatches)
        }
        for (step, forward), before in checked(self.booleans.items(), self.model.check):
            (letter, of, m), (_, stage, other) = step, forward
            younger = self.booleans.get(((letter, of, following.get((of, m), -1)), forward))
            later = self.booleans.get((step, ("F", stage, following.get((stage, other), -1))))
            if younger is not None:
                self.model.cp.add_implication(younger, before)
            if later is not None:
                self.model.cp.add_implication(before, later)
