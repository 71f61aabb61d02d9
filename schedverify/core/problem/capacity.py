"""The least that a rank must hold: one sequence at the deepest point of its way."""

from __future__ import annotations

from collections.abc import Iterator

from schedverify.core.problem.value import Problem

_MOST_WORK = 10_000_000
"""The most (stage, stage of the same rank) pairs that are looked at on a graph that is no forest."""


def needs(problem: Problem, order: list[int]) -> list[int]:
    """Return by rank the bytes without which no schedule can take a single micro-batch through the stages there.

    While the backward of a stage runs (inference: the forward), the activations of all stages on the same rank that
    its input came through are held, because their backward waits for it; and so are all slices of the sequence.
    On a stage graph that is no forest and very large, the stages are looked at one by one; the figures are then
    lower than they could be.

    Parameters
    ----------
    order
        The stages of all copies, each after those that feed it.
    """
    least = list(problem.static)
    used = set(problem.replica_of)
    for stage, rank, before in _held_before(problem, order):
        if problem.copy_of(stage) in used:
            least[rank] = max(least[rank], problem.static[rank] + _alone(problem, stage) + before * problem.slices)
    return least


def _alone(problem: Problem, stage: int) -> int:
    """Return what a stage itself holds while the first backward of a sequence runs there."""
    kept = problem.kept[stage]
    if problem.form == "inference":
        return kept
    return max(problem.activation[stage], kept) + (problem.slices - 1) * kept


def _held_before(problem: Problem, order: list[int]) -> Iterator[tuple[int, int, int]]:
    """Yield (stage, rank, bytes that the stages before it keep on that rank), for each rank that a stage stands on."""
    if problem.form == "inference":
        return _separately(problem)
    if all(len(before) <= 1 for before in problem.predecessors):
        return _along_paths(problem)
    if problem.total_stages**2 <= _MOST_WORK:
        return _by_ancestors(problem, order)
    return _separately(problem)


def _separately(problem: Problem) -> Iterator[tuple[int, int, int]]:
    for stage, ranks in enumerate(problem.placement):
        for rank in ranks:
            yield stage, rank, 0


def _along_paths(problem: Problem) -> Iterator[tuple[int, int, int]]:
    """Walk a forest depth first, with the sums of the path from its root."""
    on_rank = [0] * problem.ranks
    stack = [stage for stage, before in enumerate(problem.predecessors) if not before]
    while stack:
        stage = stack.pop()
        if stage < 0:
            for rank in problem.placement[~stage]:
                on_rank[rank] -= problem.kept[~stage]
            continue
        for rank in problem.placement[stage]:
            yield stage, rank, on_rank[rank]
            on_rank[rank] += problem.kept[stage]
        stack += (~stage, *problem.successors[stage])


def _by_ancestors(problem: Problem, order: list[int]) -> Iterator[tuple[int, int, int]]:
    """Walk a graph in topological order, with the set of the stages before each as the bits of an int."""
    before = [0] * problem.total_stages
    for stage in order:
        for source in problem.predecessors[stage]:
            before[stage] |= before[source] | 1 << source
        for rank in problem.placement[stage]:
            others = (other for other in problem.stages_of[rank] if before[stage] >> other & 1)
            yield stage, rank, sum(problem.kept[other] for other in others)
