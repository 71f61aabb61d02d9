"""Memory of several stages on one rank: how much each F finds held, counted by which steps come before it.

Every step of a rank comes before or after each F of it; one boolean says which. What the rank holds at that F is then a
sum of booleans, and a limit is one inequality for each F. A solver reasons better on these than on a resource with a
level, as it does on the precedences of a stage that stands alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Final, NamedTuple

from schedverify.optimizer.model.variables import OrderModel, Times
from schedverify.optimizer.tasks import Node, ancestors

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

MOST_BOOLEANS: Final = 200_000
"""Beyond so many booleans in all the model would be too large; the limits are then resources."""


class Amounts(NamedTuple):
    """By stage, what each F adds, and how much of it stays from the end of the gradient op to the end of W."""

    kept: Sequence[int]
    stash: Sequence[int]


def takes(model: OrderModel, stages: Sequence[int]) -> bool:
    """Whether the steps of these stages go first in, first out, an F alone adds to what is held, and all is small."""
    problem, tasks = model.problem, model.tasks
    plain = "fifo" not in model.without and problem.slices == 1 and tasks.trains
    lone = not tasks.mixed.intersection(stages) and not any(problem.recompute[stage] for stage in stages)
    pairs = sum(len(of) * sum(len(tasks.passing[stage]) for stage in of) ** 2 for of in problem.stages_of)
    return plain and lone and pairs <= MOST_BOOLEANS


def hold_at_most(model: OrderModel, stages: Sequence[int], amounts: Amounts, room: int) -> None:
    """Keep what a rank with these stages holds at each F within ``room``.

    Only an F adds, and what it adds counts from its start, so nothing else need be looked at: at F number ``k`` (from
    0) of stage ``s`` the rank holds ``kept(s) (k + 1)``, and for each other stage ``u`` ``kept(u)`` for every F before
    it; less ``kept(u) - stash(u)`` for every gradient op, and ``stash(u)`` for every W, of all stages, before it.
    """
    earlier = _Earlier(model)
    for stage in stages:
        for number, m in enumerate(model.tasks.passing[stage]):
            held = amounts.kept[stage] * (number + 1)
            parts: list[tuple[int, cp_model.IntVar]] = []
            for change, step in _changes(model, stages, stage, amounts):
                known = earlier.known(step, ("F", stage, m))
                held += change if known else 0
                if known is None:
                    parts.append((change, earlier.boolean(step, ("F", stage, m))))
            if held + sum(change for change, _ in parts if change > 0) > room:
                model.cp.add(sum(change * boolean for change, boolean in parts) <= room - held)
    earlier.keep_lines()


def _changes(model: OrderModel, stages: Sequence[int], of: int, amounts: Amounts) -> Iterator[tuple[int, Node]]:
    """Yield every step of a rank that changes what an F of the stage ``of`` finds held, and by how much."""
    for stage in stages:
        kept, stash = amounts.kept[stage], amounts.stash[stage] if model.tasks.splits else 0
        for m in model.tasks.passing[stage]:
            if stage != of and kept:
                yield kept, ("F", stage, m)
            if kept != stash:
                yield stash - kept, ("G", stage, m)
            if stash:
                yield -stash, ("W", stage, m)


class _Earlier:
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
            before = self.model.cp.new_bool_var("")
            self.model.cp.add(self.model.start[forward] >= self.model.end(step)).only_enforce_if(before)
            self.model.cp.add(self.model.start[step] >= self.model.end(forward)).only_enforce_if(~before)
            self.model.derive(before, _is_before(step, forward))
            self.booleans[step, forward] = before
        return self.booleans[step, forward]

    def keep_lines(self) -> None:
        """Say what follows from first in, first out: what is before one F is before the next, and so is its elder."""
        following = {
            (stage, m): after
            for stage, passing in enumerate(self.model.tasks.passing)
            for m, after in pairwise(passing)
        }
        for (step, forward), before in self.booleans.items():
            (letter, of, m), (_, stage, other) = step, forward
            younger = self.booleans.get(((letter, of, following.get((of, m), -1)), forward))
            later = self.booleans.get((step, ("F", stage, following.get((stage, other), -1))))
            if younger is not None:
                self.model.cp.add_implication(younger, before)
            if later is not None:
                self.model.cp.add_implication(before, later)


def _is_before(step: Node, forward: Node) -> Callable[[Times], int]:
    return lambda times: int(times[forward][0] >= times[step][1])
