"""What one rank runs: its row of the plan's lowered order, with every peer named."""

from __future__ import annotations

from typing import NamedTuple

from schedverify.core.errors import ScheduleError
from schedverify.core.messages import named
from schedverify.core.op import Kind, Op
from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.core.schedule import Schedule, kinds


class Action(NamedTuple):
    """One step of a rank's order: what is launched as one, and where it stands."""

    position: int
    text: str
    """As it stands in the plan."""
    ops: tuple[Op, ...]
    """Each send and receive with its peer stage."""


class RankProgram(NamedTuple):
    """What a rank runs in each step of training."""

    problem: Problem
    rank: int
    actions: tuple[Action, ...]
    split: frozenset[tuple[int, int]]
    """The pairs of stage and micro-batch whose backward stands in two parts."""
    reduces: bool
    """Whether ``REDUCE_GRAD`` stands in the rank's order."""


def program_of(plan: Plan, rank: int) -> RankProgram:
    """Return what a rank runs of a plan that has a schedule with communication.

    Raises
    ------
    ScheduleError
        If it has none, or a send or receive has no peer on another rank.
    """
    if plan.lowered is None:
        raise ScheduleError("the plan holds no schedule with communication")
    problem, row = plan.problem, plan.lowered.schedule.rows[rank]
    transfers = (kinds(row) >= int(Kind.SEND_F)) & (kinds(row) <= int(Kind.RECV_B))
    full = row.copy()
    full[transfers] = named(row[transfers], problem)
    steps = zip(plan.lowered.schedule.steps(rank), Schedule([full]).steps(0), strict=True)
    actions = tuple(Action(position, str(own), step.ops) for position, (own, step) in enumerate(steps))
    _check_peers(actions, rank)
    ops = [op for action in actions for op in action.ops]
    split = frozenset((op.stage, op.microbatch) for op in ops if op.kind is Kind.I and op.microbatch is not None)
    return RankProgram(problem, rank, actions, split, any(op.kind is Kind.REDUCE_GRAD for op in ops))


def _check_peers(actions: tuple[Action, ...], rank: int) -> None:
    for action in actions:
        for op in action.ops:
            if op.kind.is_transfer and op.peer is None:
                raise ScheduleError(f"rank {rank}, position {action.position} ({op}): no peer on another rank")
