"""What a rank that waits for its sends holds of what it sends (semantics, SV402)."""

from __future__ import annotations

import numpy as np

from schedverify.core.messages import named
from schedverify.core.op import INDEX_MASK, KIND_SHIFT, PEER_SHIFT, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import OPERATION_MASK, IntArray, Words, is_send, is_send_wait, kinds, positions

_PAIR = (1 << PEER_SHIFT) - 1
"""The bits of a packed operation that say its stage and micro-batch."""
_F, _B, _I, _SEND_B = map(int, (Kind.F, Kind.B, Kind.I, Kind.SEND_B))


def sent_bytes(row: Words, problem: Problem) -> tuple[Words, Words]:
    """Return by operation the bytes of gradients that it makes to be sent, and the sent bytes that its end lets go.

    The end of a wait lets go of what its send holds. That of a B or I (inference: of an F) lets go of less than none:
    from then on an activation that is still to be waited for counts by itself.

    Parameters
    ----------
    row
        The order of a rank, in which every send is needed, stands once, and has its F and, in training, its B or I.
    """
    kind, step = kinds(row), positions(row)
    full = named(row & OPERATION_MASK, problem)
    sends = np.flatnonzero(is_send(row))
    backward = kind[sends] == _SEND_B
    ends = np.flatnonzero(kind == _F if problem.form == "inference" else (kind == _B) | (kind == _I))
    pairs, first = np.unique(row[ends] & _PAIR, return_index=True)
    end = ends[first[np.searchsorted(pairs, row[sends] & _PAIR)]]
    wait = _waits_behind(full, step, sends)
    counts = (wait < 0) | (step[wait] >= step[end] + ~backward)
    stage, peer = full[sends] >> STAGE_SHIFT & INDEX_MASK, (full[sends] >> PEER_SHIFT & INDEX_MASK) - 1
    size = problem.boundary_bytes_array[np.where(backward, peer, stage)]
    taken, freed = np.zeros_like(row), np.zeros_like(row)
    np.add.at(taken, end[counts & backward], size[counts & backward])
    np.subtract.at(freed, end[counts & ~backward], size[counts & ~backward])
    np.add.at(freed, wait[counts & (wait >= 0)], size[counts & (wait >= 0)])
    return taken, freed


def _waits_behind(full: Words, step: IntArray, sends: IntArray) -> IntArray:
    """Return for each of some sends the first wait for it in a step behind its own, or -1."""
    waits = np.flatnonzero(is_send_wait(full))
    gradient = np.isin(kinds(full), (_SEND_B, int(Kind.WAIT_SEND_B))).astype(np.int64)
    tensor = full & (1 << KIND_SHIFT) - 1 | gradient << KIND_SHIFT
    order = np.argsort(tensor[sends])
    send = order[np.searchsorted(tensor[sends[order]], tensor[waits])]
    behind = np.flatnonzero(step[sends[send]] < step[waits])[::-1]
    found = np.full(len(sends), -1, dtype=np.int64)
    found[send[behind]] = waits[behind]  # of several the first is written last, and stays
    return found
