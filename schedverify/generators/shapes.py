"""What a family asks of a problem. Each need returns the fault it finds, with the nearest shape that works, or None.

A fault's message begins with "wants", so that the family's name can stand before it.
"""

from __future__ import annotations

from collections.abc import Callable

from schedverify.core.errors import Fault
from schedverify.core.problem import Problem
from schedverify.core.problem.stage_graph import chain_edges

Need = Callable[[Problem], Fault | None]


def backward(problem: Problem) -> Fault | None:
    """Ask for training, not inference."""
    if problem.form != "inference":
        return None
    hint = 'nearest: form = "fused", or for inference the families naive, gpipe and looped-bfs'
    return Fault("form", 'wants a backward; this problem\'s form is "inference"', hint)


def split_backward(problem: Problem) -> Fault | None:
    """Ask for a backward in two parts."""
    if problem.form == "split":
        return None
    hint = 'nearest: form = "split" with costs.backward_input and costs.backward_weight'
    return Fault("form", f'wants the backward in two parts, I and W; this problem\'s form is "{problem.form}"', hint)


def chain(problem: Problem) -> Fault | None:
    """Ask for one copy of a chain of stages."""
    if problem.replicas > 1:
        found = f"wants one copy of the model; this problem has {problem.replicas}"
        return Fault("replicas", found, "nearest: replicas = 1")
    if problem.edges != chain_edges(problem.stages):
        found = "wants a chain of stages; this problem's stage graph is another"
        return Fault("edges", found, "nearest: no edges given")
    return None


def whole_sequences(problem: Problem) -> Fault | None:
    """Ask for sequences that are not sliced."""
    if problem.slices == 1:
        return None
    message = f"wants sequences in one part; this problem has slices = {problem.slices}"
    return Fault("slices", message, "nearest: slices = 1; naive, gpipe and looped-bfs take slices")


def one_stage_a_rank(problem: Problem) -> Fault | None:
    """Ask that no rank has more than one stage."""
    rank, stages = max(enumerate(problem.stages_of), key=lambda entry: len(entry[1]))
    if len(stages) <= 1:
        return None
    found = f"wants at most one stage on a rank; rank {rank} of this problem has {len(stages)}"
    other = "gpipe" if several_looped(problem) else "interleaved-1f1b"
    hint = f"nearest: virtual = 1, which is {problem.ranks} stages, or the family {other}"
    return Fault("placement", found, hint)


def looped(problem: Problem) -> Fault | None:
    """Ask for the placement "loop": stage s on rank s mod P, as many stages on each rank."""
    return _looped(problem, 1)


def several_looped(problem: Problem) -> Fault | None:
    """Ask for the placement "loop" with two or more stages a rank."""
    return _looped(problem, 2)


def two_in_a_v(problem: Problem) -> Fault | None:
    """Ask for the placement "v" with two stages a rank: down from the first rank to the last, and up again."""
    ranks, stages = problem.ranks, problem.stages
    hint = f'nearest: virtual = 2 and placement = "v", which is {2 * ranks} stages'
    if stages != 2 * ranks:
        found = f'wants the placement "v" with 2 stages a rank; this problem has {stages} stages on {ranks} ranks'
        return Fault("virtual", found, hint)
    for stage, placed in enumerate(problem.placement[:stages]):
        wanted = min(stage, stages - 1 - stage)
        if placed != (wanted,):
            place = " and ".join(map(str, placed))
            found = f'wants the placement "v", stage {stage} on rank {wanted}; this problem has it on {place}'
            return Fault("placement", found, hint)
    return None


def _looped(problem: Problem, least: int) -> Fault | None:
    ranks, stages = problem.ranks, problem.stages
    if stages % ranks or stages < least * ranks:
        virtual = max(least, round(stages / ranks))
        wanted = f'the placement "loop" with {least} or more stages a rank, as many on each'
        found = f"wants {wanted}; this problem has {stages} stages on {ranks} ranks"
        return Fault("virtual", found, f"nearest: virtual = {virtual}, which is {ranks * virtual} stages")
    for stage, placed in enumerate(problem.placement):
        if placed != (stage % ranks,):
            place = " and ".join(map(str, placed))
            found = f'wants the placement "loop", stage {stage} on rank {stage % ranks}; this problem has it on {place}'
            return Fault("placement", found, 'nearest: placement = "loop"')
    return None


def at_most(most: int, letters: int) -> Need:
    """Return what asks for a schedule of at most so many operations, ``letters`` of each stage and micro-batch."""

    def short(problem: Problem) -> Fault | None:
        count = problem.stages * problem.microbatches * (1 if problem.form == "inference" else letters)
        if count <= most:
            return None
        found = f"wants a schedule of at most {most} operations; {problem.microbatches} micro-batches make {count}"
        return Fault("microbatches", found, f"nearest: microbatches = {problem.microbatches * most // count}")

    return short
