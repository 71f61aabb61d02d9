"""The rules of the model, one function each: what an order must keep, and what is minimized.

They are written from the law, apart from the properties that verify; each can be left out by name, and a test for each
sees the verifier object to what comes out. Those of memory have a module of their own.

What is minimized is the makespan or the span. The starts of the model are those of any timeline of an order, not only
of the earliest one. For the makespan that makes no difference, and the span is defined so: first steps may wait.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Final

from schedverify.core.ending import checked
from schedverify.optimizer.model.memory import bytes_within_capacity, in_flight_on_ranks, in_flight_on_stages
from schedverify.optimizer.model.variables import OrderModel
from schedverify.optimizer.tasks import Node, Tasks

if TYPE_CHECKING:
    from ortools.sat.python import cp_model

Rule = Callable[[OrderModel], None]
MOST_PAIRS: Final = 200_000
"""With more pairs of steps on one rank, a model for the span does not keep to a makespan limit: it would be too large.
What it proves holds all the same, and what breaks the limit is not kept."""


def exclusive_ranks(model: OrderModel) -> None:
    """A rank runs one step at a time; a stage on several ranks takes all of them."""
    cp, tasks = model.cp, model.tasks
    intervals = {}
    for (letter, stage, m), start in checked(model.start.items(), model.check):
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

    Times are kept, so is every makespan, and so is the span, with first steps that wait as they did. What is renamed
    follows from the order alone: the earliest timeline and one whose first steps wait become timelines of one new
    order, so a span, a makespan and peaks that an order has together are had together.
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

    *Span.* The span of an order is the least number of ticks within which every rank's steps fit in some timeline of
    it, and each of these is a solution, up to a horizon that is far enough (:attr:`Tasks.horizon`): the least value of
    the model is the least span. How scaled ticks say so exactly: :class:`~schedverify.optimizer.tasks.Tasks`.
    """
    cp, tasks = model.cp, model.tasks
    for rank, stages in enumerate(model.problem.stages_of):
        begun = _begun(model, rank) if tasks.objective == "span" else 0
        for node in _last(model, stages):
            cp.add(tasks.subticks * model.value + tasks.instant + begun >= model.end(node))
    cp.minimize(model.value)


def _begun(model: OrderModel, rank: int) -> cp_model.IntVar | int:
    """Return when a rank begins: a variable no later than any of its F, or the tick of the anchor."""
    first = list(_first(model, model.problem.stages_of[rank]))
    begun: cp_model.IntVar | int
    if model.anchor is not None and model.anchor[0] == rank:
        begun = model.anchor[1]
    else:
        begun = variable = model.cp.new_int_var(0, model.horizon, "")
        model.derive(variable, lambda times: min((times[node][0] for node in first), default=0))
    for node in first:
        model.cp.add(model.start[node] >= begun)
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


def earliest_timeline_in_time(model: OrderModel) -> None:
    """The earliest timeline of the order ends within the makespan limit, where the starts are of one that may not.

    For the makespan the horizon says so. For the span the first steps wait, and what ends late then may end early if
    they do not. So the model has a second start for each step, which keeps the same dependencies and the same order:
    for any two steps on a rank, one boolean says for both timelines which goes first.
    """
    limit = model.problem.makespan_limit
    if limit is None or model.tasks.objective != "span" or not keeps_makespan_limit(model.tasks):
        return
    early = model.twin(model.tasks.scaled(limit) + model.tasks.instant)
    for rule in (exclusive_ranks, activations_flow, gradients_flow, own_forward, weights_last, slices_in_order):
        rule(early)
    if "fifo" not in model.without:
        first_in_first_out(early)
    for stages in model.problem.stages_of:
        for node in _last(model, stages):
            model.cp.add(early.end(node) <= early.horizon)
        pairs = combinations([node for node in model.start if node[1] in stages], 2)
        for one, other in checked(pairs, model.check):
            _same_order(model, early, one, other)


def keeps_makespan_limit(tasks: Tasks) -> bool:
    """Whether a model for the span keeps to ``limits.makespan``: not with more than :data:`MOST_PAIRS` booleans."""
    steps = [len(tasks.letters) * len(microbatches) for microbatches in tasks.microbatches_of]
    return sum(sum(steps[stage] for stage in stages) ** 2 for stages in tasks.problem.stages_of) // 2 <= MOST_PAIRS


def _same_order(model: OrderModel, early: OrderModel, one: Node, other: Node) -> None:
    """Let two steps on one rank go in the same order in both timelines; a W that is absent does not count."""
    before = model.cp.new_bool_var("")
    model.derive(before, lambda times: int(times[one][0] < times[other][0]))
    present = [~model.fused[node[1:]] for node in (one, other) if node[0] == "W" and node[1:] in model.fused]
    for timeline in (model, early):
        for first, second, chosen in ((one, other, before), (other, one, ~before)):
            model.cp.add(timeline.start[second] >= timeline.end(first)).only_enforce_if(chosen, *present)


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
    ("makespan limit", earliest_timeline_in_time),
    ("objective", objective),
)
"""The model's table of contents. ``recomputation`` names the part of ``bytes`` that recomputing stages add."""


def add_constraints(model: OrderModel) -> None:
    """Add every rule that the model is not without."""
    for name, rule in RULES:
        if name not in model.without:
            rule(model)
