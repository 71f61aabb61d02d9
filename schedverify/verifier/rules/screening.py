"""Whether a property of a compute order is violated at all, by arrays; what tells the violations runs only then.

Each of these is asked for the same thing as the property that it stands before, at a fraction of the time.
"""

from __future__ import annotations

import numpy as np

from schedverify.core.op import INDEX_MASK, JOIN_SHIFT, MICROBATCH_MASK, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Words, kinds
from schedverify.simulator.precedence import Precedence
from schedverify.verifier.occurrences import Occurrences
from schedverify.verifier.step_inputs import reads


def malformed(row: Words, problem: Problem) -> bool:
    """Whether a row holds an operation that the problem does not know, or a step of several."""
    return bool((~problem.has_operations(row)).any() or (row >> JOIN_SHIFT != 0).any())


def doubled(occurrences: Occurrences) -> bool:
    """Whether an operation stands twice on one rank, or a B beside an I or W of its stage and micro-batch."""
    stands = _standing(occurrences)
    both = stands[Kind.B] & (stands[Kind.I] | stands[Kind.W])
    return bool(occurrences.again.any() or both.any())


def misplaced(occurrences: Occurrences) -> bool:
    """Whether an operation stands on a foreign rank, or lacks on a rank of its stage; where none stands twice."""
    wanted = np.array([len(ranks) for ranks in occurrences.problem.placement])
    found = np.bincount(occurrences.index, minlength=len(occurrences.ops))
    return bool((~occurrences.own).any() or (found != wanted[occurrences.ops >> STAGE_SHIFT & INDEX_MASK]).any())


def incomplete(occurrences: Occurrences) -> bool:
    """Whether a needed operation stands nowhere."""
    problem = occurrences.problem
    needed = problem.passing().ravel()
    stands = _standing(occurrences)
    whole = stands[Kind.F]
    if problem.form != "inference":
        whole = whole & (stands[Kind.B] | stands[Kind.I] & stands[Kind.W])
    return bool((needed & ~whole).any())


def cyclic(occurrences: Occurrences) -> bool:
    """Whether dependencies and rank orders have a cycle; where each operation stands once on each of its ranks."""
    pairs = [*reads(occurrences, across=False), *reads(occurrences, across=True)]
    reader = np.concatenate([entries for entries, _ in pairs])
    maker = occurrences.first(np.concatenate([ops for _, ops in pairs]))
    reader, maker = reader[maker >= 0], maker[maker >= 0]
    node, rank = occurrences.node, occurrences.step_rank
    follows = np.flatnonzero(rank[1:] == rank[:-1])
    before = np.concatenate((node[maker], node[follows]))
    after = np.concatenate((node[occurrences.step[reader]], node[follows + 1]))
    return bool(Precedence(len(node), before, after).stuck.any())


def _standing(occurrences: Occurrences) -> dict[Kind, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
    """Return by kind, and by stage and micro-batch in a row, whether the operation stands."""
    problem, op = occurrences.problem, occurrences.op
    pair = (op >> STAGE_SHIFT & INDEX_MASK) * problem.microbatches + (op & MICROBATCH_MASK)
    found = {}
    for kind in (Kind.F, Kind.B, Kind.I, Kind.W):
        found[kind] = np.zeros(problem.total_stages * problem.microbatches, dtype=bool)
        found[kind][pair[kinds(op) == int(kind)]] = True
    return found
