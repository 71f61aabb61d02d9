"""What must hold between the keys of a problem: no cycle, sums within bounds, one micro-batch fits."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from schedverify.core.problem.fields import ProblemFields
from schedverify.core.problem.numbers import LARGEST
from schedverify.core.problem.reader import ProblemReader

_MOST_PAIRS = 10_000_000
"""The most (stage, stage of the same rank) pairs that are looked at on a graph that is no forest."""


def check(problem: ProblemFields, reader: ProblemReader) -> None:
    """Add a fault for everything in the problem that contradicts itself."""
    if len(problem.topological_order) < problem.total_stages:
        left = sorted(set(range(problem.stages)) - set(problem.topological_order))
        message = f"the stage graph has a cycle: stages {left[:10]} are on it or behind it"
        reader.fault("edges", message, "make it a DAG")
        return
    _slices(problem, reader)
    _stash(problem, reader)
    _sums(problem, reader)
    _capacity(problem, reader)
    edges = set(problem.edges)
    for i, boundary in enumerate(problem.boundaries):
        if (boundary.source, boundary.target) not in edges:
            text = f"stage {boundary.source} does not feed stage {boundary.target}"
            reader.fault(f"boundary[{i}]", text, "a boundary lies on an edge of the stage graph")


def _slices(problem: ProblemFields, reader: ProblemReader) -> None:
    if problem.microbatches % problem.slices:
        hint = "microbatches counts parts: a multiple of slices"
        reader.fault("slices", f"{problem.microbatches} micro-batches are no multiple of {problem.slices}", hint)
    elif problem.slices > 1 and problem.replicas > 1:
        copies = problem.copy_by_microbatch.reshape(-1, problem.slices)
        for sequence in np.flatnonzero((copies != copies[:, :1]).any(axis=1)).tolist():
            message = f"the parts of sequence {sequence} go through different copies"
            reader.fault(f"replica_of[{sequence * problem.slices}]", message, "give them one")


def _stash(problem: ProblemFields, reader: ProblemReader) -> None:
    for stage, (stash, activation) in enumerate(zip(problem.weight_stash, problem.activation, strict=True)):
        if stash > activation:
            part, whole = problem.units.values("peak-memory", stash, activation)
            message = f"{part} on stage {stage} is more than its activation, {whole}"
            reader.fault("memory.weight_stash", message, "it is a part of the activation")
            return


def _sums(problem: ProblemFields, reader: ProblemReader) -> None:
    """Refuse what could pass 2^62 in any sum that a timeline or a memory profile can make."""
    ticks = sum(problem.forward) * 2 + sum(problem.backward)
    ticks += sum(problem.backward_input) + sum(problem.backward_weight)
    ticks += sum(cost for _, _, cost in problem.overlapped)
    for source, targets in enumerate(problem.successors):
        ticks += sum(problem.forward_lag(source, t) + problem.backward_lag(t, source) for t in targets)
    if ticks * problem.microbatches > LARGEST:
        reader.fault("costs", "durations and transfers add up to more than 2^62 ticks", "use a coarser tick")
    most_held = (sum(problem.activation) + sum(problem.boundary)) * problem.microbatches + max(problem.static)
    most_sent = _message_bytes(problem) * problem.microbatches
    if most_held + most_sent > LARGEST:
        key = "links.bytes" if most_sent > most_held else "memory"
        text = "activations and messages, each by itself, add up to more than 2^62 bytes"
        reader.fault(key, text, "use a coarser unit")


def _message_bytes(problem: ProblemFields) -> int:
    """Return the bytes of all messages of one micro-batch: one for each edge between two ranks, in training two."""
    crossing = (
        problem.boundary_bytes[source]
        for source, targets in enumerate(problem.successors)
        for target in targets
        if problem.owner_rank[source] != problem.owner_rank[target]
    )
    return sum(crossing) * (1 if problem.form == "inference" else 2)


def _capacity(problem: ProblemFields, reader: ProblemReader) -> None:
    """Refuse a capacity below what one micro-batch needs at the deepest point of its way."""
    if problem.capacity is None:
        return
    unit = "micro-batch" if problem.slices == 1 else "sequence"
    for rank, (capacity, need) in enumerate(zip(problem.capacity, least_capacity(problem), strict=True)):
        if capacity < need:
            has, needs = problem.units.values("peak-memory", capacity, need)
            message = f"{has} on rank {rank} is below what one {unit} needs, {needs}"
            enough = problem.units.exact(need).replace(",", "") if problem.unit else need
            reader.fault(f"memory.capacity[{rank}]", message, f"{enough} or more")


def least_capacity(problem: ProblemFields) -> list[int]:
    """Return by rank the bytes without which no schedule can take a single micro-batch through the stages there.

    While the backward of a stage runs (inference: the forward), the activations of all stages on the same rank that
    its input came through are held, because their backward waits for it; and so are all slices of the sequence.
    On a stage graph that is no forest and very large, the stages are looked at one by one; the figures are then
    lower than they could be.
    """
    least = list(problem.static)
    for stage, rank, before in _saved_before(problem):
        if problem.microbatch_counts[stage]:
            least[rank] = max(least[rank], problem.static[rank] + _own_bytes(problem, stage) + before * problem.slices)
    return least


def _own_bytes(problem: ProblemFields, stage: int) -> int:
    """Return the bytes that a stage itself holds while the first backward of a sequence runs there."""
    saved = problem.saved_activation_bytes[stage]
    if problem.form == "inference":
        return saved
    return max(problem.activation[stage], saved) + (problem.slices - 1) * saved


def _saved_before(problem: ProblemFields) -> Iterator[tuple[int, int, int]]:
    """Yield (stage, rank, bytes) for each rank that a stage stands on.

    The bytes are what the stages before it, on the same rank, have saved of one micro-batch.
    """
    forest = all(len(before) <= 1 for before in problem.predecessors)
    if problem.form == "inference" or (not forest and problem.total_stages**2 > _MOST_PAIRS):
        return _separately(problem)
    return _along_paths(problem) if forest else _by_ancestors(problem)


def _separately(problem: ProblemFields) -> Iterator[tuple[int, int, int]]:
    """Look at each stage alone, as if nothing were saved before it."""
    for stage, ranks in enumerate(problem.placement):
        for rank in ranks:
            yield stage, rank, 0


def _along_paths(problem: ProblemFields) -> Iterator[tuple[int, int, int]]:
    """Walk a forest depth first, with the sums by rank over the path from the root.

    A stage goes onto the stack twice: as ``~stage`` (below zero) under its successors, so that it comes off again, and
    leaves the sums, when all that it feeds was walked.
    """
    on_rank = [0] * problem.ranks
    stack = [stage for stage, before in enumerate(problem.predecessors) if not before]
    while stack:
        stage = stack.pop()
        if stage < 0:
            for rank in problem.placement[~stage]:
                on_rank[rank] -= problem.saved_activation_bytes[~stage]
            continue
        for rank in problem.placement[stage]:
            yield stage, rank, on_rank[rank]
            on_rank[rank] += problem.saved_activation_bytes[stage]
        stack += (~stage, *problem.successors[stage])


def _by_ancestors(problem: ProblemFields) -> Iterator[tuple[int, int, int]]:
    """Walk a graph in topological order, with the set of the stages before each as the bits of an int."""
    before = [0] * problem.total_stages
    for stage in problem.topological_order:
        for source in problem.predecessors[stage]:
            before[stage] |= before[source] | 1 << source
        for rank in problem.placement[stage]:
            others = (other for other in problem.stages_of[rank] if before[stage] >> other & 1)
            yield stage, rank, sum(problem.saved_activation_bytes[other] for other in others)
