"""The hand-made zero-bubble families: the backward in two parts, the weight part where it fills a bubble.

Source: Qi et al. 2024 (Zero Bubble, arXiv 2401.10241), sections 2.1 and 2.2, figure 3.
"""

from __future__ import annotations

import numpy as np

from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words
from schedverify.generators.packing import in_turn, packed, stage_by_stage


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
