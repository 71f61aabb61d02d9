"""What a sweep knows of each class of operations, a kind and a stage: its inputs, its cost, where its output stands.

The output of F of stage s and micro-batch m stands at ``s·M+m``, the gradient that B or I makes at ``(S+s)·M+m``, and
behind them are M places for W, which nobody reads.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from schedverify.core.op import INDEX_MASK, Kind
from schedverify.core.problem import Problem

if TYPE_CHECKING:
    from schedverify.simulator import kernels

_F, _W = int(Kind.F), int(Kind.W)


def class_facts(key: int, problem: Problem) -> tuple[tuple[tuple[int, int], ...], int, int]:
    """Return the inputs (place of micro-batch 0 among the outputs, lag) of a class, its cost, and its own such place.

    The key of a class is kind, stage (from bit 1 on, kind from bit 33) and, in bit 0, whether it reads the part beside.
    """
    beside, stage, kind = key & 1, key >> 1 & INDEX_MASK, key >> 33
    count = problem.microbatches
    forward, backward = stage * count, (problem.total_stages + stage) * count
    if kind == _W:
        return ((backward, 0),), problem.duration(kind, stage), 2 * problem.total_stages * count
    if kind == _F:
        inputs = [(before * count, problem.forward_lag(before, stage)) for before in problem.predecessors[stage]]
        inputs += [(forward - 1, 0)] if beside else []
        return tuple(inputs), problem.duration(kind, stage), forward
    after = problem.successors[stage]
    inputs = [((problem.total_stages + t) * count, problem.backward_lag(t, stage)) for t in after]
    inputs += [(backward + 1, 0)] if beside else []
    return ((forward, 0), *inputs), problem.duration(kind, stage), backward


def table(problem: Problem) -> kernels.Facts:
    """Return the facts of every class of single operations, as the compiled loop wants them."""
    from schedverify.simulator import kernels

    parts = (0, 1) if problem.slices > 1 else (0, 0)
    keys = [
        kind << 33 | stage << 1 | beside for kind in range(_W + 1) for stage in range(problem.total_stages)
        for beside in parts
    ]  # fmt: skip
    there = {int(Kind[letter]) for letter in problem.kinds}
    facts = [class_facts(key, problem) if key >> 33 in there else ((), 0, 0) for key in keys]
    inputs = np.array([pair for reads, _, _ in facts for pair in reads], dtype=np.int64).reshape(-1, 2)
    return kernels.Facts(
        np.array([cost for _, cost, _ in facts], dtype=np.int64),
        np.array([output for _, _, output in facts], dtype=np.int64),
        np.cumsum([0, *(len(reads) for reads, _, _ in facts)]),
        inputs[:, 0].copy(),
        inputs[:, 1].copy(),
        problem.total_stages,
        problem.slices,
    )
