"""Families for several stages a rank, placed in a loop: interleaved 1F1B and breadth-first.

Sources: Narayanan et al. 2021 (Megatron-LM, arXiv 2104.04473), section 2.2.2; Lamy-Poirier 2023 (Breadth-First Pipeline
Parallelism, arXiv 2211.05953), figure 4.
"""

from __future__ import annotations

import numpy as np

from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.generators.classic import fill_and_drain
from schedverify.generators.packing import Indices, one_forward_one_backward, packed


def interleaved_1f1b(problem: Problem) -> Schedule:
    """Interleaved 1F1B: micro-batches pass in groups through one chunk of a rank after another.

    Narayanan et al. 2021 (arXiv 2104.04473), section 2.2.2. For M a multiple of P the groups are of P micro-batches
    and the order is Megatron-LM's. For other M there are ``max(1, M // P)`` groups, as equal as they can be and the
    larger first, so none is below P unless M is; where they come out equal this is the order of PyTorch's
    ``ScheduleInterleaved1F1B``. Rank ``r`` warms up with ``(V-1) g + 2 (P-r-1)`` forwards of chunks, ``g`` being the
    largest group.

    With equal stages and no latency the makespan is ``M (f+b) + (P-1) (f+b) / V`` for every M ≥ P, and
    ``(P V + M - 1) (f+b) / V`` below.
    """
    ranks, virtual = problem.ranks, problem.stages // problem.ranks
    sizes = group_sizes(ranks, problem.microbatches)
    chunks, microbatches = _grouped(sizes, virtual)
    rows = []
    for rank in range(ranks):
        forwards = packed(Kind.F, chunks * ranks + rank, microbatches)
        backwards = packed(Kind.B, (virtual - 1 - chunks) * ranks + rank, microbatches)
        warm_up = (virtual - 1) * sizes[0] + 2 * (ranks - 1 - rank)
        rows.append(one_forward_one_backward(forwards, backwards, warm_up))
    return Schedule(rows)


def looped_bfs(problem: Problem) -> Schedule:
    """Breadth-first: all micro-batches pass through one stage of a rank before the next stage begins.

    Lamy-Poirier 2023 (arXiv 2211.05953), figure 4. Backwards go from the last stage and the last micro-batch to the
    first, as in PyTorch's ``ScheduleLoopedBFS``.
    """
    return Schedule(fill_and_drain(problem, list(stages), problem.microbatches) for stages in problem.stages_of)


def group_sizes(ranks: int, microbatches: int) -> list[int]:
    """Return how many micro-batches pass together: the most groups that are not below ``ranks``, the larger first."""
    count = max(1, microbatches // ranks)
    size, larger = divmod(microbatches, count)
    return [size + 1] * larger + [size] * (count - larger)


def _grouped(sizes: list[int], virtual: int) -> tuple[Indices, Indices]:
    """Return chunk and micro-batch in the order of the forwards: group by group, in it chunk by chunk.

    Both have shape (M * V,); with groups of 3 and 2 micro-batches and V = 2::

        chunks        0 0 0 1 1 1 | 0 0 1 1
        microbatches  0 1 2 0 1 2 | 3 4 3 4
    """
    starts = np.cumsum([0, *sizes[:-1]])
    chunks = [np.repeat(np.arange(virtual), size) for size in sizes]
    microbatches = [np.tile(np.arange(start, start + size), virtual) for start, size in zip(starts, sizes, strict=True)]
    return np.concatenate(chunks), np.concatenate(microbatches)
