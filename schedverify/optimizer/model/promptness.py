"""First steps that start as early as their order lets them: what makes the span of a solution that of its timeline."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.tasks import Node, Tasks

if TYPE_CHECKING:
    from ortools.sat.python import cp_model


def prompt_first_steps(model: OrderModel) -> None:
    """The first step of each rank starts as early as the orders let it, where the model is ``prompt``.

    A step is *prompt* if it has no input and starts at 0, or if it starts right when a prompt step ends that it waits
    for: one before it on a rank of its own, or an input, with the lag. Every operation takes time, so this goes back to
    steps without input, and a prompt step starts where it starts in the timeline. In a timeline every step is prompt.
    So the starts of first steps are those of the timeline, and a solution's span is no less than its order's; and each
    timeline is a solution.
    """
    if not model.prompt:
        return
    cp = model.cp
    prompt = {node: cp.new_bool_var("") for node in model.start}
    for node, known in prompt.items():
        model.derive(known, lambda times, node=node: int(times[node][1] > times[node][0]))  # type: ignore[misc]
        reasons = [_right_behind(model, node, before, lag, prompt) for before, lag in _awaited(model.tasks, node)]
        if not any(True for _ in model.tasks.inputs(node)):
            reasons.append(_at_once(model, node))
        cp.add_bool_or([~known, *reasons])
        if node[0] == "W" and node[1:] in model.whole:
            cp.add_implication(known, ~model.whole[node[1:]])
    for stages in model.problem.stages_of:
        first = [("F", stage, m) for stage in stages for m in model.tasks.passing[stage]]
        if first:
            _one_is_first(model, first, prompt)


def reasons_in_all(tasks: Tasks) -> int:
    """Return how many reasons the rule looks at: what makes the model large."""
    kinds = 3 if tasks.splits else 2 if tasks.trains else 1
    return sum((kinds * sum(len(tasks.passing[stage]) for stage in stages)) ** 2 for stages in tasks.problem.stages_of)


def _awaited(tasks: Tasks, node: Node) -> Iterator[tuple[Node, int]]:
    """Yield what a step may start right behind, with the lag: its inputs, and the other steps on its ranks."""
    inputs = list(tasks.inputs(node))
    yield from inputs
    ranks = set(tasks.problem.placement[node[1]])
    letters = "FGW" if tasks.splits else "FG" if tasks.trains else "F"
    for stage, m in tasks.pairs:
        if ranks & set(tasks.problem.placement[stage]):
            others = ((letter, stage, m) for letter in letters)
            yield from ((other, 0) for other in others if other != node and (other, 0) not in inputs)


def _right_behind(
    model: OrderModel, node: Node, before: Node, lag: int, prompt: dict[Node, cp_model.IntVar]
) -> cp_model.IntVar:
    """Return a literal that makes a step start when another, which is prompt, has ended and its lag is over."""
    chosen = model.cp.new_bool_var("")
    model.cp.add(model.start[node] == model.end(before) + lag).only_enforce_if(chosen)
    model.cp.add_implication(chosen, prompt[before])
    model.derive(chosen, lambda times: int(times[node][0] == times[before][1] + lag > times[before][0] + lag))
    return chosen


def _at_once(model: OrderModel, node: Node) -> cp_model.IntVar:
    chosen = model.cp.new_bool_var("")
    model.cp.add(model.start[node] == 0).only_enforce_if(chosen)
    model.derive(chosen, lambda times: int(times[node][0] == 0))
    return chosen


def _one_is_first(model: OrderModel, nodes: list[Node], prompt: dict[Node, cp_model.IntVar]) -> None:
    """Let the earliest of the F on a rank be prompt; the first step of a rank is an F."""
    cp = model.cp
    earliest = cp.new_int_var(0, model.horizon, "")
    cp.add_min_equality(earliest, [model.start[node] for node in nodes])
    model.derive(earliest, lambda times: min(times[node][0] for node in nodes))
    chosen = {node: cp.new_bool_var("") for node in nodes}
    cp.add_bool_or(chosen.values())
    for node, literal in chosen.items():
        cp.add(model.start[node] == earliest).only_enforce_if(literal)
        cp.add_implication(literal, prompt[node])
        model.derive(literal, lambda times, node=node: int(times[node][0] == min(times[n][0] for n in nodes)))  # type: ignore[misc]
