"""Derives a claimed lower bound on the peak memory again, from the problem alone; shares nothing with what found it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from schedverify.core.problem import Problem
from schedverify.verifier.certificates import Derivation, EvidenceError, chosen_rule


def proved_peak(
    problem: Problem, objective: str, certificate: Mapping[str, Any], ceiling: tuple[str, int] | None = None
) -> int:
    """Return the bytes that some rank must hold by a certificate's rule at its place.

    Parameters
    ----------
    ceiling
        ``makespan`` or ``span`` and its most ticks: the bound need only hold of schedules that do not pass it, nor the
        problem's own makespan limit.

    Raises
    ------
    EvidenceError
        If the rule or the place is unknown, or the rule does not hold for the problem.
    """
    rule = chosen_rule({"sequence": _sequence, "memory": _admission}, objective, certificate)
    derivation = Derivation(problem, ceiling[0] if ceiling else "makespan", ceiling)
    return rule(derivation, certificate)


def _sequence(known: Derivation, certificate: Mapping[str, Any]) -> int:
    """One sequence alone, at the stage of the rank where it holds most: all stages that it came through wait for it."""
    problem = known.problem
    rank = known.index(certificate.get("rank"), problem.ranks, "rank")
    stages = [s for s in problem.stages_of[rank] if known.passing(s)]
    held = [max(_kept(problem, s), problem.activation[s]) for s in stages]
    if not known.training:
        return problem.static[rank] + max((_kept(problem, s) for s in stages), default=0)
    for place, stage in enumerate(stages):
        waiting = sum(_kept(problem, other) for other in stages if other in _leading_to(problem, stage))
        held[place] += problem.slices * waiting + (problem.slices - 1) * _kept(problem, stage)
    return problem.static[rank] + max(held, default=0)


def _admission(known: Derivation, certificate: Mapping[str, Any]) -> int:
    """The F that must have run on a lone stage before its first gradient op, so that the rest fits under a ceiling.

    Nothing but F runs on its rank until a gradient comes back, so the rank idles for what the F do not fill, and the
    idle time and all the work must fit: under the problem's makespan limit and under the plan's ceiling.
    """
    problem = known.problem
    stage = known.index(certificate.get("stage"), problem.total_stages, "stage")
    rank, forward = problem.owner_rank[stage], problem.forward[stage]
    if problem.stages_of[rank] != (stage,) or not known.training or not known.passing(stage) or not forward:
        raise EvidenceError(f"stage {stage} is not alone on rank {rank} in training, with a forward that takes time")
    ticks = known.passing(stage) * (forward + known.backward(stage)) + known.until_gradient(stage)
    needed = [0]
    if problem.makespan_limit is not None:
        needed.append(ticks + known.head[stage] - problem.makespan_limit)
    if known.ceiling is not None:
        needed.append(ticks + (known.head[stage] if known.makespan else 0) - known.ceiling[1])
    first = min(max(1, -(-max(needed) // forward)), known.passing(stage))
    kept = _kept(problem, stage)
    return problem.static[rank] + (first - 1) * kept + max(problem.activation[stage], kept)


def _kept(problem: Problem, stage: int) -> int:
    return problem.boundary[stage] if problem.recompute[stage] else problem.activation[stage]


def _leading_to(problem: Problem, stage: int) -> set[int]:
    """Return the stages from which a way leads to a stage."""
    found: set[int] = set()
    front = [stage]
    while front:
        before = [b for b in problem.predecessors[front.pop()] if b not in found]
        found.update(before)
        front += before
    return found
