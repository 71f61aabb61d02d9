"""The zero-bubble families: the backward in two parts, the weight part where it fills a bubble.

By hand, ``zb-h1`` and ``zb-h2``; and by list scheduling in a given memory, by several policies, the best of all.

Source: Qi et al. 2024 (Zero Bubble, arXiv 2401.10241), sections 2, 3.1 and 6, figure 3, tables 5 and 8.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

import numpy as np

from schedverify.core.ending import Check, go_on
from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words
from schedverify.generators.dispatch import DispatchPolicy, MemoryBudget, dispatch
from schedverify.generators.packing import in_turn, packed, stage_by_stage
from schedverify.simulator.engine import simulate


def zb_h1(problem: Problem) -> Schedule:
    """ZB-H1: 1F1B's memory and a third of its bubble (Qi et al., arXiv 2401.10241, section 2.1 and figure 3, top).

    Stage ``s`` of ``S`` warms up with ``S-s`` forwards; then I, W and F take turns, W being ``s`` micro-batches late.
    It holds at most ``S-s`` activations that wait for I and, with those, ``s`` that wait for W.

    With equal stages, no latency and W at most F and I, the span's bubble is ``(S-1) (F+I-W)`` for every M ≥ S.
    """
    last = problem.stages
    return _shifted(problem, [(last - stage, stage) for stage in range(last)])


def zb_h2(problem: Problem) -> Schedule:
    """ZB-H2: no bubble where F, I and W are equal (Qi et al., arXiv 2401.10241, section 2.2 and figure 3, bottom).

    As ZB-H1 with about twice the warm-up and delay: stage ``s`` of ``S`` warms up with ``2 (S-s) - 1`` forwards, and
    W is ``2 s`` micro-batches late. It holds at most ``2 (S-s) - 1`` activations that wait for I and, with those,
    ``2 s`` that wait for W.

    With equal stages, no latency and W at most F and I, the span's bubble is ``(S-1) (F+I-2W)`` for every M ≥ 2S-1.
    The makespan is longer than the span where 2W exceeds I: the rows then stand in a parallelogram.
    """
    last = problem.stages
    return _shifted(problem, [(2 * (last - stage) - 1, 2 * stage) for stage in range(last)])


def _shifted(problem: Problem, shifts: list[tuple[int, int]]) -> Schedule:
    """Return the schedule in which each stage's F is so many micro-batches ahead of its I, and its W so many late.

    ``shifts`` has by stage how many F goes ahead, and how many W comes late.
    """
    microbatches = np.arange(problem.microbatches)

    def row(stage: int) -> Words:
        ahead, late = shifts[stage]
        return in_turn([packed(kind, stage, microbatches) for kind in (Kind.I, Kind.W, Kind.F)], [0, late, -ahead])

    return stage_by_stage(problem, row)


EFFORT: Final = 120_000
"""The steps that all passes of one family may schedule together; the first pass is made even where it has more."""

_ONE_STAGE: Final = (
    DispatchPolicy(None, 2, None),
    DispatchPolicy(None, 3, 4),
    DispatchPolicy(None, 0, 2),
    DispatchPolicy(6, 2, 1, weights_first=True),
    DispatchPolicy(None, 3, None),
    DispatchPolicy(5, 1, 1),
    DispatchPolicy(None, 3, 1),
)
_TWO_STAGES: Final = (
    DispatchPolicy(4, 0, None, weights_first=True),
    DispatchPolicy(3, 0, None, weights_first=True),
    DispatchPolicy(4, 2, None, weights_first=True),
    DispatchPolicy(3, 3, 2, weights_first=True),
    DispatchPolicy(4, 1, 1, weights_first=True),
    DispatchPolicy(4, 2, 4),
    DispatchPolicy(6, 3, 4),
    DispatchPolicy(4, 3, 2),
)


def zb_1p(problem: Problem, check: Check = go_on) -> Schedule:
    """ZB-1p: the best span in the memory of 1F1B (Qi et al., arXiv 2401.10241, section 3.1 and table 5).

    The paper gives a heuristic and its knobs: F as long as memory admits, then F and I in turn, W where a rank would
    wait or memory is full; several settings are tried and the best is kept. So it is here, over passes of list
    scheduling (:class:`DispatchPolicy` has the knobs) and ``zb-h1``, which needs no more. The best has the shortest
    span in the problem's costs and latencies, of these the shortest makespan.

    A rank holds at most ``S`` times what its stage keeps from F to I (``S`` stages in the chain, as many as ranks
    where each has one). That is ``activation``, and where a stage recomputes the larger of ``boundary`` and
    ``weight_stash``, with room for one ``activation`` beside. Of it, ``weight_stash`` waits for W. A rank that keeps
    nothing at all counts two for each micro-batch from F to I, and one from I to W. What is ``static`` does not count.
    """
    return _best(problem, _tried_by_zb_1p(problem, check))


def zb_2p(problem: Problem, check: Check = go_on) -> Schedule:
    """ZB-2p: as ZB-1p with twice the memory (Qi et al., arXiv 2401.10241, section 3.1 and table 5).

    What ``zb-h2`` and ``zb-1p`` give is among what is tried, so its span is none above theirs.
    """
    tried = _passes(problem, _room(problem, 2), _ONE_STAGE, check)
    return _best(problem, chain(tried, [zb_h2(problem)], _tried_by_zb_1p(problem, check)))


def zb_v(problem: Problem, check: Check = go_on) -> Schedule:
    """ZB-V: two stages a rank, there and back, in the memory of 1F1B (Qi et al., arXiv 2401.10241, section 6).

    Every rank has as much way to go to the turn of the V as back from it, so all of them fill the same memory:
    ``P`` times what both its stages keep, which is counted as in ZB-1p. Rank ``r`` runs the F of its first stage for
    at most ``2P-r-1`` micro-batches before their I, which at equal costs leaves the room that the second stage needs
    in the warm-up. With equal F, I and W, no latency and M ≥ 2P, no rank waits once it has begun.

    The paper (table 8) and Qi et al. 2024 (arXiv 2405.15362) give its bubble rates; the passes are those of
    ZB-1p, with policies of their own.
    """
    ranks, room = problem.ranks, _room(problem, 1)
    ahead = [2 * ranks - stage - 1 if stage < ranks else problem.microbatches for stage in range(problem.stages)]
    return _best(problem, _passes(problem, room._replace(ahead=ahead), _TWO_STAGES, check))


def _tried_by_zb_1p(problem: Problem, check: Check) -> Iterator[Schedule]:
    """Yield the schedules of which ZB-1p is the best."""
    return chain(_passes(problem, _room(problem, 1), _ONE_STAGE, check), [zb_h1(problem)])


def _passes(
    problem: Problem, room: MemoryBudget, policies: tuple[DispatchPolicy, ...], check: Check
) -> Iterator[Schedule]:
    """Yield the schedule of each policy, the first ones where the problem is large."""
    steps = 3 * problem.stages * problem.microbatches
    for policy in policies[: max(1, EFFORT // steps)]:
        yield dispatch(problem, room, policy, check)


def _best(problem: Problem, schedules: Iterator[Schedule]) -> Schedule:
    """Return the first schedule of the shortest span, and of these of the shortest makespan."""
    timelines = [simulate(schedule, problem) for schedule in dict.fromkeys(schedules)]
    return min(timelines, key=lambda timeline: (timeline.span, timeline.makespan)).schedule


def _room(problem: Problem, share: int) -> MemoryBudget:
    """Return the memory of ``share`` times as many micro-batches on each rank as the chain has ranks with stages.

    A rank that saves nothing at all counts units instead of bytes: two from F to I, one of them until W.
    """
    saved = [max(pair) for pair in zip(problem.saved_activation_bytes, problem.weight_stash, strict=True)]
    stash = list(problem.weight_stash)
    for stages in problem.stages_of:
        if not any(saved[stage] for stage in stages):
            for stage in stages:
                saved[stage], stash[stage] = 2, 1
    extra = [max(0, full - part) for full, part in zip(problem.activation, saved, strict=True)]
    count = share * problem.stages // max(map(len, problem.stages_of))
    limits = [
        count * sum(saved[stage] for stage in stages) + max((extra[stage] for stage in stages), default=0)
        for stages in problem.stages_of
    ]
    return MemoryBudget(limits, saved, stash, extra, [problem.microbatches] * problem.stages)
