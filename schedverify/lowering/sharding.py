"""Puts in when a rank gathers and frees the parameters of its stages (FSDP), with the fewest gatherings.

Source: PyTorch's ``torch.distributed.pipelining``, whose actions UNSHARD and RESHARD these are; which stage goes is
L. A. Belady, A study of replacement algorithms for a virtual-storage computer, IBM Systems Journal 5 (2), 1966.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np

from schedverify.core.argument_types import check_types
from schedverify.core.errors import Fault, InputError, ScheduleError
from schedverify.core.op import Kind
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule, Words, check_ranks, kinds, op_stages, step_bounds
from schedverify.lowering.parameters import packed, refuse

_W = int(Kind.W)
_NEVER = 1 << 62
Step = tuple[list[int], list[int]]
"""The words of a step, and the stages that it uses, in rising order."""


def add_sharding(
    schedule: Schedule, problem: Problem, *, most: int | None = None, lookahead: int | Sequence[int] = 1
) -> Schedule:
    """Return the schedule with an UNSHARD before the uses of each stage on each rank, and a RESHARD after them.

    A stage stays gathered from its first use to its last, or, where only so many may be gathered, until its place is
    needed: of the stages that are gathered, the one whose next use is farthest away goes. No order of UNSHARD and
    RESHARD that keeps the limit gathers less often (Belady), and with a lookahead it is gathered as often and earlier.

    Parameters
    ----------
    most
        How many stages of a rank may be gathered at once; by default the problem's ``limits.unsharded``.
    lookahead
        How many different stages a rank looks ahead, the one that it uses next among them, for all ranks or one number
        a rank: a stage is gathered as soon as it is among these, and there is room that the stages used before it do
        not need. With 1 it is gathered right before its use.

    Raises
    ------
    ScheduleError
        If one step uses more stages than may be gathered.
    InputError
        If UNSHARD or RESHARD stand in the schedule already, it has other rows than one for each rank, or the lookahead
        is no number of at least 1, or no such number for each rank.
    """
    check_types("add_sharding", schedule=(schedule, Schedule), problem=(problem, Problem))
    check_ranks(schedule, problem.ranks)
    refuse(schedule, Kind.UNSHARD, Kind.RESHARD)
    ahead = (lookahead,) * schedule.ranks if isinstance(lookahead, int) else tuple(lookahead)
    if len(ahead) != schedule.ranks or min(ahead, default=1) < 1:
        text = f"a number from 1 on, or one for each of {schedule.ranks} ranks"
        raise InputError(Fault("lookahead", f"{lookahead!r} is no such lookahead", text))
    limits = problem.unsharded if most is None else (most,) * schedule.ranks
    limits = limits or (problem.total_stages,) * schedule.ranks
    return Schedule(_sharded(row, rank, limits[rank], ahead[rank]) for rank, row in enumerate(schedule.rows))


class _Gathering(NamedTuple):
    """A stage that is gathered for a step.

    Attributes
    ----------
    step, stage
        The step that uses it, and the stage.
    leaving
        The stage that goes for it, or None where there is room.
    since
        The first step before which it can go.
    """

    step: int
    stage: int
    leaving: int | None
    since: int


def _sharded(row: Words, rank: int, most: int, lookahead: int) -> Iterator[int]:
    """Yield the operations of a row with UNSHARD and RESHARD put in, at most so many stages gathered at once.

    The stages are gathered in the order of their uses, and each takes the place of the one that it would take on
    demand. So when a step is reached, all is there that would be on demand, and what was gathered ahead took no room
    that an earlier use needed.
    """
    steps, next_use = _uses(row)
    planned = _on_demand(steps, next_use, rank, most)
    gathered, done = 0, 0
    for number, (words, stages) in enumerate(steps):
        while stages and done < len(planned):
            step, stage, leaving, since = planned[done]
            if step > number and not _within(steps, number, step, lookahead):
                break
            if since > number or (leaving is None and gathered == most):
                break
            if leaving is not None:
                yield packed(Kind.RESHARD, leaving)
            yield packed(Kind.UNSHARD, stage)
            gathered += leaving is None
            done += 1
        yield from words
        for stage in stages:
            if next_use[number, stage] == _NEVER:
                gathered -= 1
                yield packed(Kind.RESHARD, stage)


def _on_demand(steps: Sequence[Step], next_use: dict[tuple[int, int], int], rank: int, most: int) -> list[_Gathering]:
    """Return what is gathered, in the order of its uses, if nothing is before its use."""
    planned = []
    coming: dict[int, int] = {}  # by stage that is gathered, the step that uses it next
    used: dict[int, int] = {}  # by stage, the step that used it last
    for number, (_, stages) in enumerate(steps):
        if len(stages) > most:
            raise ScheduleError(f"a step of rank {rank} uses {len(stages)} stages, {most} may be gathered at once")
        for stage in stages:
            if stage not in coming:
                leaving = None
                if len(coming) >= most:
                    leaving = max((s for s in coming if s not in stages), key=lambda s: (coming[s], s))
                    del coming[leaving]
                planned.append(_Gathering(number, stage, leaving, 0 if leaving is None else used[leaving] + 1))
            coming[stage] = number
        for stage in stages:
            used[stage], coming[stage] = number, next_use[number, stage]
            if coming[stage] == _NEVER:
                del coming[stage]
    return planned


def _within(steps: Sequence[Step], number: int, step: int, lookahead: int) -> bool:
    """Whether the stages from one step to a later one are no more than so many."""
    seen: set[int] = set()
    for _, stages in steps[number : step + 1]:
        seen.update(stages)
        if len(seen) > lookahead:
            return False
    return True


def _uses(row: Words) -> tuple[list[Step], dict[tuple[int, int], int]]:
    """Return the words of each step with the stages that it uses, and by step and stage the step that uses it next."""
    computes, stage = kinds(row) <= _W, op_stages(row)
    words, used = row.tolist(), np.where(computes, stage, -1).tolist()
    bounds = step_bounds(row).tolist()
    steps = [(words[first:last], sorted(set(used[first:last]) - {-1})) for first, last in pairwise(bounds)]
    later: dict[int, int] = {}
    next_use = {}
    for number in reversed(range(len(steps))):
        for used_stage in steps[number][1]:
            next_use[number, used_stage] = later.get(used_stage, _NEVER)
            later[used_stage] = number
    return steps, next_use
