"""SV71: what torchtitan needs of a schedule that it loads (``parallelism.pipeline_parallel_schedule_csv``)."""

from __future__ import annotations

from collections.abc import Iterator

from schedverify.core.problem import Problem
from schedverify.core.result import Violation
from schedverify.verifier.rules.base import Case, rule


@rule("SV711", "a placement that torchtitan knows")
def known_placement(case: Case) -> Iterator[Violation]:
    """The stages stand in a loop or, two on each rank, in a V.

    What it checks

    The number of stages is a multiple of the number of ranks, and stage s stands on rank s mod P; or there are 2 P
    stages and stage s stands on rank min(s, 2 P - 1 - s).

    Why it matters

    torchtitan builds the stages of a rank before it reads the schedule, from the name of the schedule class in
    `parallelism.pipeline_parallel_schedule` alone: a V for `ZBVZeroBubble` and `DualPipeV`, else a loop
    (`pipeline_module_split`). A schedule of another placement meets stages that are elsewhere.

    Example

    With `placement = [0, 1, 1, 0]` rank 0 must have the stages 0 and 3; with `placement = [0, 0, 1, 1]` there is no
    name that gives them.

    Formally

    P divides S and placement(s) = {s mod P} for every s; or S = 2 P and placement(s) = {min(s, 2 P - 1 - s)}.
    """
    problem = case.problem
    if problem.stages % problem.ranks:
        text = f"{problem.stages} stages on {problem.ranks} ranks, torchtitan takes a multiple of the ranks"
        yield Violation("SV711", text)
    elif problem.owner_rank[: problem.stages] not in (_loop(problem), _v(problem)):
        yield Violation(
            "SV711", f"the stages stand on the ranks {list(problem.owner_rank)}: no loop, no V of two a rank"
        )


@rule("SV712", "compute operations alone")
def compute_alone(case: Case) -> Iterator[Violation]:
    """Nothing but F, B, I, W and overlapped pairs of them stands in the schedule.

    What it checks

    No send, receive, `UNSHARD`, `RESHARD` or `REDUCE_GRAD` stands in any order.

    Why it matters

    torchtitan loads the file with `_load_csv(path)`, which takes compute operations and refuses all others
    (`_prepare_schedule_with_comms`). PyTorch adds the communication itself.

    Example

    `0F0 0SEND_F0 0RECV_B0 0B0` is refused at its second cell.

    Formally

    Every operation of every order is F, B, I or W.
    """
    for rank in range(case.schedule.ranks):
        for position, step in enumerate(case.schedule.steps(rank)):
            if not step.ops[0].kind.is_compute:
                told = tuple(map(str, step.ops))
                text = f"rank {rank}, position {position} ({step}): torchtitan's file has no communication"
                yield Violation("SV712", text, rank, position, told)


def _loop(problem: Problem) -> tuple[int, ...]:
    return tuple(stage % problem.ranks for stage in range(problem.stages))


def _v(problem: Problem) -> tuple[int, ...]:
    if problem.stages != 2 * problem.ranks:
        return ()
    return tuple(min(stage, problem.stages - 1 - stage) for stage in range(problem.stages))
