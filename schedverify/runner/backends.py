"""How the backends of torch.distributed match messages, and so which discipline a plan must be proved for."""

from __future__ import annotations

from datetime import timedelta
from typing import Any, NamedTuple

import torch.distributed as dist

from schedverify.core.discipline import Discipline
from schedverify.core.errors import Fault, UnsupportedError
from schedverify.core.op import JOIN_SHIFT, Join
from schedverify.core.schedule import Schedule, waits_for_sends
from schedverify.runner.failures import TimedOutError


class Backend(NamedTuple):
    """A backend as the runner uses it."""

    name: str
    discipline: Discipline
    """The mildest discipline that a plan must be proved for."""
    tagged: bool
    """Whether it matches messages by their tags."""
    grouped: Discipline | None = None
    """The mildest discipline for a plan that has groups of transfers, where that is another."""
    awaited: Discipline | None = None
    """The mildest discipline for a plan that waits for its sends, where that is another."""

    def demands(self, schedule: Schedule) -> Discipline:
        """Return the mildest discipline that a schedule with communication must be proved for."""
        groups = any(bool((row >> JOIN_SHIFT == int(Join.GROUP)).any()) for row in schedule.rows)
        if groups and self.grouped is not None:
            return self.grouped
        if self.awaited is not None and waits_for_sends(schedule):
            return self.awaited
        return self.discipline


GLOO = Backend("gloo", Discipline.TAGGED, tagged=True, awaited=Discipline.EDGE)
"""Sends of any size leave only when they are received, so that a rank which waits for one waits for its peer."""
NCCL = Backend("nccl", Discipline.PAIR, tagged=False, grouped=Discipline.RANK)
"""Has a communicator for each pair of ranks, and one of all ranks for what is launched as a group."""


def backend_of(group: Any) -> Backend:
    """Return the backend of a process group.

    Raises
    ------
    UnsupportedError
        If nothing is known of the backend.
    """
    name = str(dist.get_backend(group))
    for known in (GLOO, NCCL):
        if name == known.name:
            return known
    raise UnsupportedError(Fault("group", f"nothing is known of the backend {name!r}", "gloo or nccl"))


def gloo_beside(group: Any, timeout: float) -> Any:
    """Return a new gloo group of a process group's ranks; every one of them calls it at the same time.

    Raises
    ------
    TimedOutError
        If one of them does not come.
    """
    ranks = dist.get_process_group_ranks(group)
    try:
        return dist.new_group(ranks, timedelta(seconds=timeout), "gloo", use_local_synchronization=True)
    except RuntimeError as error:
        place = f"rank {dist.get_rank(group)}, making a gloo group of {len(ranks)} ranks"
        raise TimedOutError(f"{place}: {str(error).strip() or type(error).__name__}") from error


def gloo_group(group: Any, timeout: float) -> Any:
    """Return a process group if it is one of gloo, else a gloo group beside it; all its ranks call this."""
    return group if dist.get_backend(group) == "gloo" else gloo_beside(group, timeout)
