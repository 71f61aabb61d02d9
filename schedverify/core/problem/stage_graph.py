"""The stage graph: which stage feeds which, the neighbours of each, and an order of them all."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np

from schedverify.core.schedule import IntArray

Ints = tuple[int, ...]
"""Whole numbers by stage, by rank or by micro-batch; an array of them is an ``IntArray``."""
Edge = tuple[int, int]
"""Two stages, or two layers of a model, the first of which feeds the second."""
Matrix = tuple[Ints, ...]


def chain_edges(count: int) -> tuple[Edge, ...]:
    """Return the edges of a chain of ``count`` stages or layers, sorted: each feeds the one behind it."""
    return tuple(pairwise(range(count)))


def neighbours(edges: Sequence[Edge], side: int, stages: int, copies: int) -> Matrix:
    """Return by stage of all copies the stages that it feeds (side 0), or that feed it (side 1), in rising order."""
    rows: list[list[int]] = [[] for _ in range(stages * copies)]
    for copy in range(copies):
        for edge in edges:
            rows[edge[side] + copy * stages].append(edge[1 - side] + copy * stages)
    return tuple(tuple(sorted(row)) for row in rows)


def in_order(successors: Matrix, predecessors: Matrix) -> Ints:
    """Return the stages, each after those that feed it; stages on or behind a cycle are left out."""
    missing = [len(before) for before in predecessors]
    order = [stage for stage, count in enumerate(missing) if not count]
    for stage in order:
        for after in successors[stage]:
            missing[after] -= 1
            if not missing[after]:
                order.append(after)
    return tuple(order)


def peer_lists(
    successors: Matrix, predecessors: Matrix, owner_rank: Ints, *, across: bool
) -> tuple[IntArray, IntArray]:
    """Return the neighbours of each stage in one list, and where in it those of each stage begin.

    Of a chain of three stages, each on a rank of its own, across ranks::

                    feeds:  0  1  2 | fed by:  0  1  2 | end
        offsets             0  1  2            2  2  3    4
        peers               1  2  -            -  0  1

    Parameters
    ----------
    across
        Whether to list the neighbours on other ranks, or those on the stage's own.

    Returns
    -------
    offsets
        Shape ``(2 * stages + 1,)``: first by stage where the stages begin that it feeds, then by stage where those
        begin that feed it, then the end.
    peers
        The stages, one list behind the other.
    """
    rows = [
        [peer for peer in peers if (owner_rank[peer] != owner_rank[stage]) == across]
        for direction in (successors, predecessors)
        for stage, peers in enumerate(direction)
    ]
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in rows], dtype=np.int64)))
    return offsets, np.array([peer for row in rows for peer in row], dtype=np.int64)
