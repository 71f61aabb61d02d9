"""The classic families: one micro-batch after another, GPipe, 1F1B, and 1F1B with a longer warm-up.

Sources: Huang et al. 2019 (GPipe, arXiv 1811.06965); Narayanan et al. 2021 (Megatron-LM, arXiv 2104.04473); Zhuang et
al. 2023 (arXiv 2211.05322).
"""

from __future__ import annotations

import numpy as np

from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words
from schedverify.generators.packing import Indices, joined, one_forward_one_backward, packed, stage_by_stage


def naive(problem: Problem) -> Schedule:
    """One micro-batch after another, as a model that is only cut into stages runs.

    Huang et al. 2019 (arXiv 1811.06965), figure 2b. Takes every problem, since each rank's row is its part of one order
    of all operations. Sequences that come in slices go one after another as a whole.
    """
    return Schedule(_one_by_one(problem, stages) for stages in _ordered(problem))


def gpipe(problem: Problem) -> Schedule:
    """All forwards, then all backwards.

    Huang et al. 2019 (arXiv 1811.06965), section 2.2 and figure 2c. Takes every problem: a rank with several stages
    runs them one after another, forward in an order of the stage graph and backward against it. Backwards go in the
    order of the micro-batches, as in PyTorch; the paper turns it round, which changes neither makespan nor memory.
    """
    return Schedule(fill_and_drain(problem, stages, problem.slices) for stages in _ordered(problem))


def one_f_one_b(problem: Problem) -> Schedule:
    """PipeDream-Flush, or 1F1B: stage ``s`` of ``S`` warms up with ``S-s-1`` forwards, then alternates.

    Narayanan et al. 2021 (arXiv 2104.04473), section 2.2.1. It holds ``min(M, S-s)`` micro-batches on stage ``s``.
    """
    return _alternating(problem, 1)


def eager_1f1b(problem: Problem) -> Schedule:
    """1F1B with twice the warm-up, ``2 (S-s-1)`` forwards, so that transfers overlap with compute.

    Zhuang et al. 2023 (arXiv 2211.05322); Alpa's ``1f1b_overlap_friendly``. Both count a warm-up of ``2 (S-s) - 1``
    forwards and then let a backward come first, which is the same order. It holds ``min(M, 2 (S-s) - 1)``
    micro-batches on stage ``s``.
    """
    return _alternating(problem, 2)


def fill_and_drain(problem: Problem, stages: list[int], turned: int) -> Words:
    """Return the row of a rank that runs all forwards stage by stage, then all backwards in the stages' reverse order.

    Backwards go in groups of ``turned`` micro-batches, each from its last to its first.
    """
    microbatches = [_microbatches(problem, stage) for stage in stages]
    parts = [packed(Kind.F, *pair) for pair in zip(stages, microbatches, strict=True)]
    if problem.form != "inference":
        back = zip(reversed(stages), reversed(microbatches), strict=True)
        parts += [packed(Kind.B, stage, _turned(each, turned)) for stage, each in back]
    return joined(parts)


def _alternating(problem: Problem, ahead: int) -> Schedule:
    """Return the schedule in which every stage alternates after ``ahead`` forwards for each stage behind it."""
    microbatches = np.arange(problem.microbatches)

    def row(stage: int) -> Words:
        forwards, backwards = (packed(kind, stage, microbatches) for kind in (Kind.F, Kind.B))
        return one_forward_one_backward(forwards, backwards, ahead * (problem.stages - 1 - stage))

    return stage_by_stage(problem, row)


def _one_by_one(problem: Problem, stages: list[int]) -> Words:
    """Return the row of a rank that takes each sequence through its stages, forward and back, before the next.

    All operations are made stage by stage, and a stable sort by their sequence puts them in order.
    """
    backward = [] if problem.form == "inference" else [(Kind.B, stage) for stage in reversed(stages)]
    words, sequences = [], []
    for kind, stage in [(Kind.F, stage) for stage in stages] + backward:
        microbatches = _microbatches(problem, stage)
        if kind is Kind.B:
            microbatches = _turned(microbatches, problem.slices)
        words.append(packed(kind, stage, microbatches))
        sequences.append(microbatches // problem.slices)
    return joined(words)[np.argsort(joined(sequences), kind="stable")]


def _ordered(problem: Problem) -> list[list[int]]:
    """Return by rank its stages, each after those that feed it."""
    place = {stage: position for position, stage in enumerate(problem.topological_order)}
    return [sorted(stages, key=place.__getitem__) for stages in problem.stages_of]


def _microbatches(problem: Problem, stage: int) -> Indices:
    """Return the micro-batches that go through a stage, in order."""
    if problem.replicas == 1:
        return np.arange(problem.microbatches)
    return np.flatnonzero(np.array(problem.replica_of) == problem.copy_of(stage))


def _turned(microbatches: Indices, group: int) -> Indices:
    """Return groups of micro-batches in order, each from its last to its first, as a gradient goes: 1 0 3 2."""
    return microbatches.reshape(-1, group)[:, ::-1].ravel()
