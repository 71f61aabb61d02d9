"""Longest paths through the stage graph, in the scaled ticks of a Tasks."""

from __future__ import annotations

from schedverify.optimizer.tasks import Tasks, ancestors


def heads(tasks: Tasks) -> list[int]:
    """By stage, the ticks before which no F can start there: the longest path of forwards that leads to it."""
    head = [0] * tasks.problem.total_stages
    for stage in tasks.problem.topological_order:
        ways = (
            head[b] + tasks.duration["F", b] + tasks.forward_lag(b, stage) for b in tasks.problem.predecessors[stage]
        )
        head[stage] = max(ways, default=0)
    return head


def anchors(tasks: Tasks) -> list[int | None]:
    """By rank, when its first step starts in every first-in-first-out order, or None where that depends on the order.

    Of the stages on a rank, the first step can only be of one that has no ancestor there. Where there is just one such
    stage on each of the ranks that it stands on, its F of the first micro-batch is the first step of all of them; it
    starts with the head of its stage if the same F of every stage that feeds it is the first step there as well.
    """
    above = ancestors(tasks.problem)
    stages_of = tasks.problem.stages_of
    tops = [[s for s in stages if tasks.passing[s] and not above[s] & set(stages)] for stages in stages_of]
    head = heads(tasks)
    fixed: set[int] = set()
    for stage in tasks.problem.topological_order:
        alone = all(tops[rank] == [stage] for rank in tasks.problem.placement[stage])
        if alone and all(before in fixed for before in tasks.problem.predecessors[stage]):
            fixed.add(stage)
    return [head[top[0]] if len(top) == 1 and top[0] in fixed else None for top in tops]
