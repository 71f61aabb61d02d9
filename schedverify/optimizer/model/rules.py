"""The rules of the model, one function each: what an order must keep, and what is minimized.

They are written from the law, apart from the properties that verify; each can be left out by name, and a test for each
sees the verifier object to what comes out. Those of memory have a module of their own.

What is minimized is the makespan or the span, each as far as a model of starts can say it. For the span it takes a
further rule, under which the first steps start as early as their order lets them (:func:`prompt_first_steps`): it makes
the span of a solution that of its timeline.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TYPE_CHECKING, Final

from schedverify.optimizer.model.memory import bytes_within_capacity, in_flight_on_ranks, in_flight_on_stages
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.tasks import Node, Tasks, anchors

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

Rule = Callable[[OrderModel], None]


def exclusive_ranks(model: OrderModel) -> None:
    """A rank runs one step at a time; a stage on several ranks takes all of them."""
    cp, tasks = model.cp, model.tasks
    intervals = {}
    for (letter, stage, m), start in model.start.items():
        usual = tasks.duration[tasks.usual_kind(letter), stage]
        fused = model.fused.get((stage, m))
        if fused is None or letter == "F":
            intervals[letter, stage, m] = [cp.new_fixed_size_interval_var(start, usual, "")]
            continue
        intervals[letter, stage, m] = [cp.new_optional_fixed_size_interval_var(start, usual, ~fused, "")]
        if letter == "GRAD":
            backward = tasks.duration["B", stage]
            intervals[letter, stage, m].append(cp.new_optional_fixed_size_interval_var(start, backward, fused, ""))
    for stages in model.problem.stages_of:
        if stages:
            cp.add_no_overlap(i for node, parts in intervals.items() if node[1] in stages for i in parts)


def activations_flow(model: OrderModel) -> None:
    """F starts when the outputs of all stages that feed it have arrived."""
    for stage, m in model.tasks.pairs:
        for before in model.problem.predecessors[stage]:
            model.after(("F", stage, m), ("F", before, m), model.tasks.forward_lag(before, stage))


def gradients_flow(model: OrderModel) -> None:
    """B or I starts when the gradients of all stages that it feeds have arrived."""
    for stage, m in model.tasks.pairs if model.tasks.trains else ():
        for after in model.problem.successors[stage]:
            model.after(("GRAD", stage, m), ("GRAD", after, m), model.tasks.backward_lag(after, stage))


def own_forward(model: OrderModel) -> None:
    """B or I reads the activations of its own F."""
    for stage, m in model.tasks.pairs if model.tasks.trains else ():
        model.after(("GRAD", stage, m), ("F", stage, m))


def weights_last(model: OrderModel) -> None:
    """W reads what its own I made."""
    for stage, m in model.tasks.pairs if model.tasks.splits else ():
        condition = model.cp.add(model.start["W", stage, m] >= model.end(("GRAD", stage, m)))
        if (stage, m) in model.fused:
            condition.only_enforce_if(~model.fused[stage, m])


def slices_in_order(model: OrderModel) -> None:
    """Of one sequence, F goes from the first part to the last, B or I from the last to the first."""
    slices = model.problem.slices
    for stage, m in model.tasks.pairs:
        if m % slices:
            model.after(("F", stage, m), ("F", stage, m - 1))
            if model.tasks.trains:
                model.after(("GRAD", stage, m - 1), ("GRAD", stage, m))


def first_in_first_out(model: OrderModel) -> None:
    """Micro-batches of one copy (with slices: the same part of each sequence) go through every step in order.

    Nothing is lost. In any timeline, rename on each stage the k-th start of F, of a gradient op (B or I) and of W to
    micro-batch k. The steps of one stage exclude one another, so the k-th start is the k-th end as well, also where
    durations differ (a B among I). Every dependency joins two of these lists with the same micro-batch and a fixed
    lag, and ``a[m] + lag <= b[m]`` for all m implies it for the sorted lists; where only some take I and W, this holds
    of the k-th I and the k-th W. Each rank runs the same kinds of the same stages at the same times, so bytes and
    micro-batches in flight, which count and do not name, are the same too. Copies share no stage, and parts of a
    sequence have dependencies of their own, so each of these stands by itself.

    Times are kept, so is every makespan. A *span* can be lost where an order delays the first step of a rank by
    taking a later micro-batch first; see :func:`~schedverify.optimizer.model.rules.objective`.
    """
    for stage, lines in enumerate(model.tasks.fifo_lines):
        letters = sorted({letter for letter, s, _ in model.start if s == stage})
        for line in lines:
            for earlier, later in pairwise(line):
                for letter in letters:
                    model.after((letter, stage, later), (letter, stage, earlier))


def objective(model: OrderModel) -> None:
    """Let the value be no less than every rank's last end, or than its ticks from first start to last end.

    *Makespan.* The timeline of an order starts each step as early as it can, so it ends no later than any solution with
    that order: the least value of the model is the least makespan.

    *Span.* Here the timeline can be worse than a solution, which may start the first step of a rank later than it must
    and so shorten that rank's span. The timeline itself is a solution, though, so the least value of the model is a
    lower bound on the span of every order. Under ``anchored``, each rank whose first step starts at the same tick in
    every first-in-first-out order (see :func:`~schedverify.optimizer.tasks.anchors`) is held to that tick. If that is
    every rank, a solution's ends are no earlier than its timeline's and its first starts are the same: the least value
    is the least span among these orders. Under ``prompt``, :func:`prompt_first_steps` holds the first step of every
    rank to its place in the timeline; then the least value is the least span of all the orders that the model has,
    which are all there are where it goes without first in, first out and has every mix (a later gradient, of a
    micro-batch taken out of order or of a B in place of I and W, can delay a first step).
    """
    cp, subticks = model.cp, model.tasks.subticks
    fixed = anchors(model.tasks) if model.anchored else [None] * model.problem.ranks
    for rank, stages in enumerate(model.problem.stages_of):
        begun = _begun(model, stages, fixed[rank]) if model.objective == "span" else 0
        for node in _last(model, stages):
            cp.add(subticks * (model.value + begun) + subticks - 1 >= model.end(node))
    cp.minimize(model.value)


def _begun(model: OrderModel, stages: tuple[int, ...], fixed: int | None) -> cp_model.LinearExpr | int:
    """Return when a rank begins, in units: a known tick, or a variable no later than any of its F."""
    first = list(_first(model, stages))
    if fixed is not None:
        model.cp.add(model.start[first[0]] == fixed)
        return fixed // model.tasks.subticks
    begun = model.cp.new_int_var(0, model.horizon, "")
    model.derive(begun, lambda times: min((times[node][0] for node in first), default=0) // model.tasks.subticks)
    for node in first:
        model.cp.add(model.tasks.subticks * begun <= model.start[node])
    return begun


def _first(model: OrderModel, stages: tuple[int, ...]) -> Iterator[Node]:
    """Yield the F among which the first step of a rank with these stages is."""
    for stage in stages:
        for line in model.tasks.fifo_lines[stage]:
            yield from (("F", stage, m) for m in (line if "fifo" in model.without else line[:1]))


def _last(model: OrderModel, stages: tuple[int, ...]) -> Iterator[Node]:
    """Yield the steps among which the last of a rank with these stages is."""
    tasks = model.tasks
    for stage in stages:
        letters = tasks.letters[1:] if stage in tasks.mixed else tasks.letters[-1:]
        for line in tasks.fifo_lines[stage]:
            for m in line if "fifo" in model.without else line[-1:]:
                yield from ((letter, stage, m) for letter in letters)


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
        if not list(model.tasks.inputs(node)):
            reasons.append(_at_once(model, node))
        cp.add_bool_or([~known, *reasons])
        if node[0] == "W" and node[1:] in model.fused:
            cp.add_implication(known, ~model.fused[node[1:]])
    for stages in model.problem.stages_of:
        first = [("F", stage, m) for stage in stages for m in model.tasks.microbatches_of[stage]]
        if first:
            _one_is_first(model, first, prompt)


def reasons_in_all(tasks: Tasks) -> int:
    """Return how many reasons, at most, :func:`prompt_first_steps` adds to a model: they make it large."""
    steps = [len(tasks.letters) * len(microbatches) for microbatches in tasks.microbatches_of]
    return sum(sum(steps[stage] for stage in stages) ** 2 for stages in tasks.problem.stages_of)


def _awaited(tasks: Tasks, node: Node) -> Iterator[tuple[Node, int]]:
    """Yield what a step may start right behind, with the lag: its inputs, and the other steps on its ranks."""
    inputs = list(tasks.inputs(node))
    yield from inputs
    ranks = set(tasks.problem.placement[node[1]])
    for stage, m in tasks.pairs:
        if not ranks.isdisjoint(tasks.problem.placement[stage]):
            others = (((letter, stage, m), 0) for letter in tasks.letters)
            yield from (other for other in others if other[0] != node and other not in inputs)


def _right_behind(
    model: OrderModel, node: Node, before: Node, lag: int, prompt: dict[Node, cp_model.IntVar]
) -> cp_model.IntVar:
    """Return a literal that makes a step start when another, which is prompt, has ended and its lag is over."""
    chosen = model.literal(
        model.start[node] == model.end(before) + lag,
        lambda times: times[node][0] == times[before][1] + lag > times[before][0] + lag,
    )
    model.cp.add_implication(chosen, prompt[before])
    return chosen


def _at_once(model: OrderModel, node: Node) -> cp_model.IntVar:
    return model.literal(model.start[node] == 0, lambda times: times[node][0] == 0)


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


RULES: Final[tuple[tuple[str, Rule], ...]] = (
    ("exclusive", exclusive_ranks),
    ("activations", activations_flow),
    ("gradients", gradients_flow),
    ("own forward", own_forward),
    ("weights", weights_last),
    ("slices", slices_in_order),
    ("fifo", first_in_first_out),
    ("in flight", in_flight_on_ranks),
    ("in flight of a stage", in_flight_on_stages),
    ("bytes", bytes_within_capacity),
    ("prompt", prompt_first_steps),
    ("objective", objective),
)
"""The model's table of contents. ``recomputation`` names the part of ``bytes`` that recomputing stages add."""


def add_constraints(model: OrderModel) -> None:
    """Add every rule that the model is not without."""
    for name, rule in RULES:
        if name not in model.without:
            rule(model)
