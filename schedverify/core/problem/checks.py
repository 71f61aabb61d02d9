"""What must hold between the keys of a problem: no cycle, sums within bounds, one micro-batch fits."""

from __future__ import annotations

from schedverify.core.problem.capacity import needs
from schedverify.core.problem.numbers import LARGEST
from schedverify.core.problem.reader import Reader
from schedverify.core.problem.value import Problem


def check(problem: Problem, reader: Reader) -> None:
    """Add a fault for everything in the problem that contradicts itself."""
    order = topological(problem)
    if len(order) < problem.total_stages:
        left = sorted(set(range(problem.stages)) - set(order))
        reader.fault(
            "edges", f"the stage graph has a cycle: stages {left[:10]} are on it or behind it", "make it a DAG"
        )
        return
    _slices(problem, reader)
    _stash(problem, reader)
    _sums(problem, reader)
    _capacity(problem, reader, order)
    edges = set(problem.edges)
    for i, boundary in enumerate(problem.boundaries):
        if (boundary.source, boundary.target) not in edges:
            text = f"stage {boundary.source} does not feed stage {boundary.target}"
            reader.fault(f"boundary[{i}]", text, "a boundary lies on an edge of the stage graph")


def topological(problem: Problem) -> list[int]:
    """Return the stages of all copies, each after those that feed it; stages on or behind a cycle are left out."""
    missing = [len(before) for before in problem.predecessors]
    order = [stage for stage, count in enumerate(missing) if not count]
    for stage in order:
        for after in problem.successors[stage]:
            missing[after] -= 1
            if not missing[after]:
                order.append(after)
    return order


def _slices(problem: Problem, reader: Reader) -> None:
    if problem.microbatches % problem.slices:
        hint = "microbatches counts parts: a multiple of slices"
        reader.fault("slices", f"{problem.microbatches} micro-batches are no multiple of {problem.slices}", hint)
    elif problem.slices > 1 and problem.replicas > 1:
        for first in range(0, problem.microbatches, problem.slices):
            if len(set(problem.replica_of[first : first + problem.slices])) > 1:
                sequence = first // problem.slices
                reader.fault(
                    f"replica_of[{first}]",
                    f"the parts of sequence {sequence} go through different copies",
                    "give them one",
                )


def _stash(problem: Problem, reader: Reader) -> None:
    for stage, (stash, held) in enumerate(zip(problem.weight_stash, problem.activation, strict=True)):
        if stash > held:
            message = f"{stash} on stage {stage} is more than its activation, {held}"
            reader.fault("memory.weight_stash", message, "it is a part of the activation")
            return


def _sums(problem: Problem, reader: Reader) -> None:
    """Refuse what could pass 2^62 in any sum that a timeline or a memory profile can make."""
    ticks = sum(problem.forward) * 2 + sum(problem.backward)
    ticks += sum(problem.backward_input) + sum(problem.backward_weight)
    ticks += sum(cost for _, _, cost in problem.overlapped)
    for source, targets in enumerate(problem.successors):
        ticks += sum(problem.forward_lag(source, t) + problem.backward_lag(t, source) for t in targets)
    if ticks * problem.microbatches > LARGEST:
        reader.fault("costs", "durations and transfers add up to more than 2^62 ticks", "use a coarser tick")
    held = sum(problem.activation) + sum(problem.boundary) + sum(problem.boundary_bytes)
    if held * problem.microbatches + max(problem.static) > LARGEST:
        reader.fault("memory", "activations and messages add up to more than 2^62 bytes", "use a coarser unit")


def _capacity(problem: Problem, reader: Reader, order: list[int]) -> None:
    """Refuse a capacity below what one micro-batch needs at the deepest point of its way."""
    if problem.capacity is None:
        return
    unit = "micro-batch" if problem.slices == 1 else "sequence"
    for rank, (capacity, need) in enumerate(zip(problem.capacity, needs(problem, order), strict=True)):
        if capacity < need:
            message = f"{capacity} on rank {rank} is below what one {unit} needs, {need}"
            reader.fault(f"memory.capacity[{rank}]", message, f"{need} or more")
