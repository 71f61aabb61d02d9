"""The long loops of simulator and verifier, compiled by numba: tens of millions of operations a second.

Everything here runs on flat arrays of integers and does what a plain loop in :mod:`~schedverify.simulator.engine` or
:mod:`~schedverify.simulator.csr_graph` does, which is used below a size where this pays and is the reference of the
tests. Import it where it is used: it brings the compiler with it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numba import njit

from schedverify.core.op import INDEX_MASK, KIND_MASK, KIND_SHIFT, MICROBATCH_MASK, STAGE_SHIFT, Kind
from schedverify.core.schedule import IntArray
from schedverify.simulator import span

ABSENT = -(1 << 62)
"""In place of the tick at which an output is made: no operation of the schedule makes it."""
_NOT_MADE = -1
_NOBODY = -1
_F, _W = int(Kind.F), int(Kind.W)


class OpClassTable(NamedTuple):
    """What the operations read, cost and make, by class: ``(kind · stages + stage) · 2 + beside``.

    ``beside`` is 1 where an operation reads the part of its sequence beside it.

    Attributes
    ----------
    cost, output
        Ticks; the place of micro-batch 0 among the outputs. Shape (classes,).
    inputs_of
        Where the inputs of each class begin; shape (classes + 1,).
    inputs, lag
        The inputs of class c are ``inputs[inputs_of[c]:inputs_of[c + 1]]``, places of micro-batch 0 as well, each with
        its lag in ticks: an operation of micro-batch m reads the places m further on.
    stages, slices
        How many there are, of all copies of the model.
    """

    cost: IntArray
    output: IntArray
    inputs_of: IntArray
    inputs: IntArray
    lag: IntArray
    stages: int
    slices: int


@njit(cache=True, nogil=True)
def sweep(
    words: IntArray, first: IntArray, table: OpClassTable, outputs: int, release: IntArray
) -> tuple[IntArray, IntArray, IntArray, IntArray]:
    """Run every rank, each operation as early as it can, but the first of a rank no earlier than its ``release``.

    ``words`` has the packed operations of rank r at ``first[r]:first[r + 1]``; each makes its own one of ``outputs``
    places, but for W. The arrays are taken out of their tuple first, which makes it several times as fast.

    Returned are starts, ends, and by rank how many operations could run and to the first operation of which rank the
    last of them goes back: to one that started at its release and leads there by a longest path.
    """
    # ``made`` holds the tick of each output, or, below 0, that it is absent or not made yet and who waits for it: the
    # head of a chained queue of ranks, of which ``behind`` has the next. Where 2, then 0, wait for the output at 7:
    #
    #     made[7]    -2      0 stands first (_NOT_MADE - 1 - 0)
    #     behind      2  _NOBODY  _NOBODY      behind 0 stands 2, behind 2 nobody
    #     rank        0     1        2
    #
    # ``ready`` is a stack of the ranks that may go on; its first ``count`` entries are in use.
    cost, output, inputs_of, inputs, lag = table.cost, table.output, table.inputs_of, table.inputs, table.lag
    ranks, size = len(first) - 1, len(words)
    starts, ends = np.zeros(size, np.int64), np.zeros(size, np.int64)
    made, came = _unmade(words, table, outputs), np.zeros(outputs, np.int32)
    origin = np.arange(ranks)
    at, behind = first[:-1].copy(), np.full(ranks, _NOBODY, np.int64)
    ready, count = np.arange(ranks)[::-1].copy(), ranks
    while count:
        count -= 1
        rank = ready[count]
        now = ends[at[rank] - 1] if at[rank] > first[rank] else release[rank]
        while at[rank] < first[rank + 1]:
            word = words[at[rank]]
            kind, m = _class(word, table.stages, table.slices), word & MICROBATCH_MASK
            start, waits_for, source = now, -1, origin[rank]
            for k in range(inputs_of[kind], inputs_of[kind + 1]):
                tick = made[inputs[k] + m]
                if tick >= 0:
                    if tick + lag[k] > start:
                        start, source = tick + lag[k], np.int64(came[inputs[k] + m])
                elif tick != ABSENT:
                    waits_for = inputs[k] + m
                    break
            if waits_for >= 0:
                behind[rank] = _NOT_MADE - 1 - made[waits_for]
                made[waits_for] = _NOT_MADE - 1 - rank
                break
            now, origin[rank] = start + cost[kind], source
            starts[at[rank]], ends[at[rank]] = start, now
            at[rank] += 1
            slot = output[kind] + m
            waiter = _NOT_MADE - 1 - made[slot] if made[slot] < 0 else _NOBODY
            made[slot], came[slot] = now, source
            while waiter >= 0:
                ready[count] = waiter
                count += 1
                waiter = behind[waiter]
    return starts, ends, at - first[:-1], origin


@njit(cache=True, nogil=True)
def _class(word: int, stages: int, slices: int) -> int:
    """Return the class of a packed operation."""
    kind, stage, part = word >> KIND_SHIFT & KIND_MASK, word >> STAGE_SHIFT & INDEX_MASK, (word & MICROBATCH_MASK)
    beside = 0
    if slices > 1 and kind < _W:
        part %= slices
        beside = int(part > 0 if kind == _F else part < slices - 1)
    return (kind * stages + stage) * 2 + beside


@njit(cache=True, nogil=True)
def _unmade(words: IntArray, table: OpClassTable, outputs: int) -> IntArray:
    """Return when each output is made, before anything has run; those of W have no place of their own."""
    made = np.full(outputs, ABSENT, np.int64)
    for word in words:
        made[table.output[_class(word, table.stages, table.slices)] + (word & MICROBATCH_MASK)] = _NOT_MADE
    return made


@njit(cache=True, nogil=True)
def longest(
    begins: IntArray, targets: IntArray, lags: IntArray, order: IntArray, length: IntArray, origin: IntArray
) -> None:
    """Raise ``length`` to that of the longest path to each node, and write into ``origin`` where that begins.

    The nodes come in an order in which each stands behind all that lead to it. The edges of node n are
    ``targets[begins[n]:begins[n + 1]]``, each with its lag. ``length`` has of each node what a path counts that begins
    there, and ``origin`` the node itself.
    """
    for node in order:
        for k in range(begins[node], begins[node + 1]):
            if length[node] + lags[k] > length[targets[k]]:
                length[targets[k]], origin[targets[k]] = length[node] + lags[k], origin[node]


@njit(cache=True, nogil=True)
def happening(begins: IntArray, targets: IntArray, waits: IntArray) -> IntArray:
    """Return the nodes that can happen, first come first; count down in ``waits`` what each still waits for."""
    # ``order`` is the queue as well: before ``done`` stand the nodes whose edges have been followed, from there to
    # ``found`` those that can happen next, and behind that nothing yet.
    order = np.zeros(len(waits), np.int64)
    found = 0
    for node in range(len(waits)):
        if not waits[node]:
            order[found] = node
            found += 1
    done = 0
    while done < found:
        for k in range(begins[order[done]], begins[order[done] + 1]):
            target = targets[k]
            waits[target] -= 1
            if not waits[target]:
                order[found] = target
                found += 1
        done += 1
    return order[:found]


settle = njit(cache=True, nogil=True)(span.settle)
"""The same, compiled, for loops that are compiled themselves; it wants arrays."""
