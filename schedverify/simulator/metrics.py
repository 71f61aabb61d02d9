"""The measures of a timeline (semantics, section 5): makespan, span, bubbles, peaks."""

from __future__ import annotations

from fractions import Fraction

import numpy as np

from schedverify.core.messages import named
from schedverify.core.op import INDEX_MASK, PEER_SHIFT, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words, is_send_wait, kinds, op_stages, positions
from schedverify.core.timeline import Measures, Ticks, computing
from schedverify.simulator.sent_bytes import sent_bytes

_PAIR = (1 << 40) - 1
_F, _B, _I, _W = map(int, (Kind.F, Kind.B, Kind.I, Kind.W))
_RECV_F, _RECV_B = int(Kind.RECV_F), int(Kind.RECV_B)


def measure(
    schedule: Schedule,
    problem: Problem,
    starts: tuple[Ticks, ...],
    ends: tuple[Ticks, ...],
    span: int,
    *,
    excerpt: bool = False,
) -> Measures:
    """Return the measures of starts and ends (one for each step, by rank) of a complete, valid schedule.

    Those of a lowered schedule are of its compute steps; only the bytes count what is received and sent too. The span
    is that of the orders, see :mod:`schedverify.simulator.span`.
    """
    if schedule.lowered:
        starts, ends = (computing(schedule, ticks) for ticks in (starts, ends))
    work = tuple(int((end - start).sum()) for start, end in zip(starts, ends, strict=True))
    makespan = max((int(end[-1]) for end in ends if len(end)), default=0)
    area, total = problem.ranks * makespan, sum(work)
    nothing = np.empty(0, dtype=np.int64)
    before = _pairs_before(schedule) if excerpt else [(nothing, nothing)] * schedule.ranks
    return Measures(
        makespan=makespan,
        span=span,
        bubble_fraction=1 - Fraction(total, area) if area else Fraction(0),
        bubble_overhead=Fraction(area - total, total) if total else None,
        span_bubble=Fraction(span - max(work), span) if span else Fraction(0),
        work=work,
        peak_in_flight=tuple(
            len(full) + peak_in_flight(row, problem) for row, (full, _) in zip(schedule.rows, before, strict=True)
        ),
        peak_memory=tuple(
            static + _bytes_before(problem, *pairs) + _peak_memory(row, problem, rank)
            for rank, (row, pairs, static) in enumerate(zip(schedule.rows, before, problem.static, strict=True))
        ),
    )


def peak_in_flight(row: Words, problem: Problem, stage: int | None = None) -> int:
    """Return the most pairs that a row holds, of one stage or of all: from the step with F to the end of that with B.

    What is true of B is true of I; in inference F itself ends a pair.
    """
    if not len(row):
        return 0
    kind = kinds(row)
    chosen = True if stage is None else op_stages(row) == stage
    forward = (kind == _F) & chosen
    ended = forward if problem.form == "inference" else ((kind == _B) | (kind == _I)) & chosen
    return _peak(row, forward.astype(np.int64), np.zeros_like(row), ended.astype(np.int64))


def _peak_memory(row: Words, problem: Problem, rank: int) -> int:
    """Return the most bytes of activations that a row holds (semantics, SV402), the static part left out."""
    taken, extra, freed = held_bytes(row, problem, rank)
    if is_send_wait(row).any():
        made, let_go = sent_bytes(row, problem)
        taken, freed = taken + made, freed + let_go
    return _peak(row, taken, extra, freed)


def held_bytes(row: Words, problem: Problem, rank: int) -> tuple[Words, Words, Words]:
    """Return by operation the bytes that it takes from its start, holds while it runs only, and frees at its end.

    The static part is left out, and so is what a rank that waits for its sends holds of what it sends.
    """
    kind, stage = kinds(row), np.minimum(op_stages(row), problem.total_stages - 1)
    saved, full, left = (sizes[stage] for sizes in problem.held_arrays)
    taken = np.where(kind == _F, saved, 0)
    extra = np.where((kind == _B) | (kind == _I), full - saved, 0)
    freed = np.select([kind == _B, kind == _I, kind == _W], [saved, saved - left, left], 0)
    if problem.form == "inference":
        freed = taken
    if (kind > _W).any():
        received, read = _received(row, problem, rank)
        taken, freed = taken + received, freed + read
    return taken, extra, freed


def _received(row: Words, problem: Problem, rank: int) -> tuple[Words, Words]:
    """Return by operation the bytes that it receives, and the received bytes that its step reads."""
    kind, stage = kinds(row), np.minimum(op_stages(row), problem.total_stages - 1)
    size = problem.boundary_bytes_array
    full = named(row, problem)
    peer = np.clip((full >> PEER_SHIFT & INDEX_MASK) - 1, 0, problem.total_stages - 1)
    taken = np.select([kind == _RECV_F, kind == _RECV_B], [size[peer], size[stage]], 0)
    offsets, peers = problem.peers_across
    sizes = np.concatenate(([0], np.cumsum(size[peers])))
    fed = (sizes[offsets[1:]] - sizes[offsets[:-1]])[problem.total_stages :]
    feeds = np.diff(offsets)[: problem.total_stages] * size
    read = np.select([kind == _F, (kind == _B) | (kind == _I)], [fed[stage], feeds[stage]], 0)
    return taken, np.where(problem.owner_rank_array[stage] == rank, read, 0)


def _bytes_before(problem: Problem, full: Words, left: Words) -> int:
    """Return the bytes of pairs that are held in full, and of those of which the weight stash is left."""
    saved_bytes, _, stash = problem.held_arrays
    return int(saved_bytes[full >> STAGE_SHIFT].sum() + stash[left >> STAGE_SHIFT].sum())


def _peak(row: Words, taken: Words, extra: Words, freed: Words) -> int:
    """Return the highest of the levels (:func:`levels`), 0 where there is none."""
    return max(0, int(levels(row, taken, extra, freed)[0].max())) if len(row) else 0


def levels(row: Words, taken: Words, extra: Words, freed: Words) -> tuple[Words, Words]:
    """Return the level of each step, and what is left behind its end; both of shape (steps,). No row is empty.

    A step takes at its start, holds ``extra`` while it runs, frees at its end.

    .. code-block:: text

        step             F0  F1  B0  B1       with 3 for each F, and 2 more while a B runs
        taken             3   3   0   0
        extra             0   0   2   2
        freed             0   0   3   3
        sum of taken      3   6   6   6
        sum of freed      0   0   3   6       the end of a step is behind its own peak, so its freed is added again
        level             3   6   8   5       6 - 3 + 3 + 2 at B0
    """
    step = positions(row)
    taken, extra, freed = (_by_step(step, part) for part in (taken, extra, freed))
    left = np.cumsum(taken) - np.cumsum(freed)
    return left + freed + extra, left


def _by_step(step: Words, values: Words) -> Words:
    """Add up the values of each step's operations, exactly."""
    if step[-1] + 1 == len(step):
        return values
    return np.add.reduceat(values, np.searchsorted(step, np.arange(step[-1] + 1)))


def _pairs_before(schedule: Schedule) -> list[tuple[Words, Words]]:
    """Return by rank the pairs that an excerpt holds before it begins: in full, and what only waits for its W."""
    forwards = [row[kinds(row) == _F] & _PAIR for row in schedule.rows]
    gradients = [row[(kinds(row) == _B) | (kinds(row) == _I)] & _PAIR for row in schedule.rows]
    weights = [row[kinds(row) == _W] & _PAIR for row in schedule.rows]
    made = np.concatenate(forwards)
    begun = np.concatenate([made, *gradients])
    full = [np.setdiff1d(row, made) for row in gradients]
    return list(zip(full, [np.setdiff1d(row, begun) for row in weights], strict=True))
