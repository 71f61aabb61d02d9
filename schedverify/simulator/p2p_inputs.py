"""What the compute steps of a lowered schedule read: outputs of their own rank, and received tensors."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schedverify.core.messages import expanded, neighbours
from schedverify.core.op import INDEX_MASK, MICROBATCH_MASK, STAGE_SHIFT, Kind
from schedverify.core.schedule import kinds
from schedverify.simulator.p2p_matching import MatchedTransfers
from schedverify.simulator.p2p_program import LoweredProgram

Ints = NDArray[np.int64]


def local_inputs(program: LoweredProgram) -> tuple[Ints, Ints]:
    """Return which operations (counted rank after rank) read which outputs that no message brings."""
    problem, words = program.problem, program.words
    kind, stage, m = kinds(words), words >> STAGE_SHIFT & INDEX_MASK, words & MICROBATCH_MASK
    backward = problem.total_stages
    forward, weight = (np.flatnonzero(kind == int(k)) for k in (Kind.F, Kind.W))
    gradient = np.flatnonzero((kind == int(Kind.B)) | (kind == int(Kind.I)))
    pairs = [
        (gradient, stage[gradient], m[gradient]),
        (weight, stage[weight] + backward, m[weight]),
    ]
    if problem.slices > 1:
        later = forward[m[forward] % problem.slices > 0]
        earlier = gradient[m[gradient] % problem.slices < problem.slices - 1]
        pairs += [(later, stage[later], m[later] - 1), (earlier, stage[earlier] + backward, m[earlier] + 1)]
    offsets, peers = neighbours(problem, across=False)
    for own, side, base in ((forward, backward, 0), (gradient, 0, backward)):
        key = stage[own] + side
        run, at = expanded(offsets[key], np.diff(offsets)[key])
        pairs.append((own[run], peers[at] + base, m[own[run]]))
    reader = np.concatenate([own for own, _, _ in pairs])
    return reader, np.concatenate([stages * problem.microbatches + parts for _, stages, parts in pairs])


def readers(program: LoweredProgram, transfers: MatchedTransfers) -> Ints:
    """Return for each transfer the node of the step that reads what its receive takes."""
    count, backward = program.problem.microbatches, program.problem.total_stages
    side = np.where(transfers.read < backward * count, 0, backward)
    return np.asarray(program.makers[0][(transfers.reader + side) * count + transfers.read % count])
