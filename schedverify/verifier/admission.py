"""Which operations a problem knows at all: kind and form fit, stage and micro-batch in range, the one passes the other.

What is not admitted is reported by SV101 and seen by no other property.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from schedverify.core.op import INDEX_MASK, KIND_MASK, MICROBATCH_MASK, STAGE_SHIFT, Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Words, kinds

_TRAINING = (Kind.SEND_B, Kind.RECV_B, Kind.REDUCE_GRAD)


def admits(problem: Problem, kind: Kind) -> bool:
    """Whether the problem's form has operations of a kind; inference has no gradients."""
    if kind.is_compute:
        return kind.name in problem.kinds
    return problem.form != "inference" or kind not in _TRAINING


def admitted(words: Words, problem: Problem) -> NDArray[np.bool_]:
    """Mark the packed operations that the problem knows."""
    kind, stage, m = kinds(words), words >> STAGE_SHIFT & INDEX_MASK, words & MICROBATCH_MASK
    fitting = np.zeros(KIND_MASK + 1, dtype=bool)
    fitting[[int(each) for each in Kind if admits(problem, each)]] = True
    fine = fitting[kind] & (stage < problem.total_stages)
    numbered = kind < int(Kind.UNSHARD)
    copies = np.array(problem.replica_of, dtype=np.int64)
    copy = copies[np.minimum(m, problem.microbatches - 1)]
    return np.asarray(fine & (~numbered | (m < problem.microbatches) & (copy == stage // problem.stages)))
