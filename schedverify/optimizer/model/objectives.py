"""What is minimized: the makespan, or the span, each as far as a model of starts can say it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.paths import anchors
from schedverify.optimizer.tasks import Node

if TYPE_CHECKING:
    from ortools.sat.python import cp_model


def objective(model: OrderModel) -> None:
    """Let the value be no less than every rank's last end, or than its ticks from first start to last end.

    *Makespan.* The timeline of an order starts each step as early as it can, so it ends no later than any solution with
    that order: the least value of the model is the least makespan.

    *Span.* Here the timeline can be worse than a solution, which may start the first step of a rank later than it must
    and so shorten that rank's span. The timeline itself is a solution, though, so the least value of the model is a
    lower bound on the span of every order. Under ``anchored``, each rank whose first step starts at the same tick in
    every first-in-first-out order (see :func:`~schedverify.optimizer.paths.anchors`) is held to that tick. If that is
    every rank, a solution's ends are no earlier than its timeline's and its first starts are the same: the least value
    is the least span among these orders. Under ``prompt``,
    :func:`~schedverify.optimizer.model.promptness.prompt_first_steps` holds the first step of every rank to its place
    in the timeline; then the least value is the least span of all the orders that the model has, which are all there
    are where it goes without first in, first out and has every mix (a later gradient, of a micro-batch taken out of
    order or of a B in place of I and W, can delay a first step).
    """
    cp, fine = model.cp, model.tasks.fine
    fixed = anchors(model.tasks) if model.anchored else [None] * model.problem.ranks
    for rank, stages in enumerate(model.problem.stages_of):
        begun = _begun(model, stages, fixed[rank]) if model.objective == "span" else 0
        for node in _last(model, stages):
            cp.add(fine * (model.value + begun) + fine - 1 >= model.end(node))
    cp.minimize(model.value)


def _begun(model: OrderModel, stages: tuple[int, ...], fixed: int | None) -> cp_model.LinearExpr | int:
    """Return when a rank begins, in units: a known tick, or a variable no later than any of its F."""
    first = list(_first(model, stages))
    if fixed is not None:
        model.cp.add(model.start[first[0]] == fixed)
        return fixed // model.tasks.fine
    begun = model.cp.new_int_var(0, model.horizon, "")
    model.derive(begun, lambda times: min((times[node][0] for node in first), default=0) // model.tasks.fine)
    for node in first:
        model.cp.add(model.tasks.fine * begun <= model.start[node])
    return begun


def _first(model: OrderModel, stages: tuple[int, ...]) -> Iterator[Node]:
    """Yield the F among which the first step of a rank with these stages is."""
    for stage in stages:
        for line in model.tasks.lines[stage]:
            yield from (("F", stage, m) for m in (line if "fifo" in model.without else line[:1]))


def _last(model: OrderModel, stages: tuple[int, ...]) -> Iterator[Node]:
    """Yield the steps among which the last of a rank with these stages is."""
    tasks = model.tasks
    for stage in stages:
        letters = "F" if not tasks.trains else "GW" if stage in tasks.mixed else "W" if tasks.splits else "G"
        for line in tasks.lines[stage]:
            for m in line if "fifo" in model.without else line[-1:]:
                yield from ((letter, stage, m) for letter in letters)
