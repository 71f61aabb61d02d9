"""Agreement on what is shared: every rank tells the weights of its stages, and all find the same shared weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

import torch.distributed as dist

from schedverify.core.problem import Problem
from schedverify.runner.compute.shared_weights import (
    Names,
    SharedWeight,
    ToldWeight,
    own_shared,
    shared_classes,
    told_weights,
)
from schedverify.runner.control.exchange import exchange_data
from schedverify.runner.failures import RefusedError

_MOST_TOLD: Final = 1 << 26
"""The most bytes in which a rank may tell its weights."""
_MOST_OBJECTIONS: Final = 3


def agree_on_shared(
    problem: Problem, modules: Mapping[int, Any], named: Sequence[Names] | None, group: Any, timeout: float
) -> tuple[SharedWeight, ...]:
    """Return the shared weights that this rank has a part in, once all ranks agree on all of them.

    Parameters
    ----------
    modules
        Those of this rank, by stage of all copies.
    named
        What is shared by name, by stage of one copy; None where tied stages share all their weights.
    group
        A gloo group of the pipeline's ranks.

    Raises
    ------
    RefusedError
        On every rank, if weights that are to be one differ, or ranks were told to share different ones.
    TimedOutError
        If a rank does not come within ``timeout`` seconds.
    """
    joined = {stage for group in (problem.tied if named is None else named) for stage in group}
    if problem.form == "inference" or not (joined or problem.replicas > 1):
        return ()  # what stages of one rank share, they share as one parameter
    rank = dist.get_rank(group)
    concerned = {s: module for s, module in modules.items() if problem.replicas > 1 or s in joined}
    own = [named, [weight[1:] for weight in told_weights(concerned, rank)]]
    answers = exchange_data(own, group, timeout, "agreeing on shared weights", most=_MOST_TOLD)
    told = [ToldWeight(other, *weight) for other, (_, weights) in enumerate(answers) for weight in weights]
    classes, objections = shared_classes(problem, named, told)
    odd = [str(other) for other, (theirs, _) in enumerate(answers) if theirs != answers[0][0]]
    if odd:
        objections = [f"rank {other}: shared is not what it is on rank 0" for other in odd]
    if objections:
        more = len(objections) - _MOST_OBJECTIONS
        rest = [f"and {more} more"] if more > 0 else []
        raise RefusedError("\n".join(["the plan is not run:", *objections[:_MOST_OBJECTIONS], *rest]))
    return own_shared(classes, modules, rank)
