"""The rules of the model, one function each: what an order must keep, whatever it is for.

They are written from the law, apart from the properties that verify; each can be left out by name, and a test for each
sees the verifier object to what comes out.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Final

from schedverify.optimizer.model.memory import bytes_within_capacity, in_flight_on_ranks, in_flight_on_stages
from schedverify.optimizer.model.objectives import objective, prompt_first_steps
from schedverify.optimizer.model.variables import OrderModel

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
    taking a later micro-batch first; see :func:`~schedverify.optimizer.model.objectives.objective`.
    """
    for stage, lines in enumerate(model.tasks.fifo_lines):
        letters = sorted({letter for letter, s, _ in model.start if s == stage})
        for line in lines:
            for earlier, later in pairwise(line):
                for letter in letters:
                    model.after((letter, stage, later), (letter, stage, earlier))


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
