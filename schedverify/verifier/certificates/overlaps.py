"""Whether overlapped pairs can make a schedule faster than the rules of the certificates reckon with."""

from __future__ import annotations

from collections.abc import Iterable

from schedverify.core.problem import Problem


def can_overlap(problem: Problem, forward: int, backward: int) -> bool:
    """Whether an F of one stage and a B of another can ever run as one step, by the orders of some schedule.

    They must share a rank, and the F be of a micro-batch that the B does not wait for. Of another sequence, or of
    another copy of the model, none is waited for. Of its own sequence a B waits, through the stages that it feeds, for
    the F of every stage from which one of them, or its own, is reached.
    """
    if problem.form == "inference" or set(problem.placement[forward]).isdisjoint(problem.placement[backward]):
        return False
    sequences = [problem.microbatch_counts[stage] // problem.slices for stage in (forward, backward)]
    if not all(sequences):
        return False
    if problem.copy_of(forward) != problem.copy_of(backward) or sequences[0] > 1:
        return True
    return _reached(problem, forward).isdisjoint(_reached(problem, backward))


def _reached(problem: Problem, stage: int) -> set[int]:
    """Return a stage and all that it feeds, directly or through others."""
    found, front = {stage}, [stage]
    while front:
        new: Iterable[int] = set(problem.successors[front.pop()]) - found
        found.update(new)
        front += new
    return found
