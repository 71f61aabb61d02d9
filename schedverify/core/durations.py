"""How many ticks an operation and a step take."""

from __future__ import annotations

from schedverify.core.op import Kind, Op
from schedverify.core.problem import Problem

_F, _B, _W = int(Kind.F), int(Kind.B), int(Kind.W)


def op_duration(problem: Problem, kind: int, stage: int) -> int:
    """Return the ticks of one operation; the B or I of a recomputing stage pays its forward again."""
    if kind == _F:
        return problem.forward[stage]
    if kind == _W:
        return problem.backward_weight[stage]
    cost = problem.backward[stage] if kind == _B else problem.backward_input[stage]
    return cost + problem.forward[stage] if problem.recompute[stage] else cost


def step_duration(problem: Problem, ops: tuple[Op, ...]) -> int:
    """Return the ticks of a step: its operation's, or what the overlapped pair costs (by default the sum)."""
    total = sum(op_duration(problem, int(op.kind), op.stage) for op in ops)
    if len(ops) != 2 or not problem.overlapped:
        return total
    forward, backward = sorted(ops)
    return problem.overlap_costs.get((forward.stage, backward.stage), total)
