"""What a backend of torch.distributed does with messages: which discipline a plan must be proved for to run on it."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch.distributed as dist

from schedverify.disciplines import Discipline
from schedverify.errors import Fault, UnsupportedError


class Backend(NamedTuple):
    """A backend as the runner uses it."""

    name: str
    discipline: Discipline
    """What it demands of a plan."""
    tagged: bool
    """Whether it matches messages by their tags."""


GLOO = Backend("gloo", Discipline.TAGGED, tagged=True)
NCCL = Backend("nccl", Discipline.PAIR, tagged=False)
BATCHED_NCCL = Backend("nccl, batched", Discipline.RANK, tagged=False)
"""Groups of communications are launched together on one communicator."""


def backend_of(group: Any, *, batched: bool) -> Backend:
    """Return what the process group's backend does; ``batched`` says whether the plan groups communications.

    Raises
    ------
    UnsupportedError
        If nothing is known of the backend.
    """
    name = str(dist.get_backend(group))
    if name == "gloo":
        return GLOO
    if name == "nccl":
        return BATCHED_NCCL if batched else NCCL
    raise UnsupportedError(Fault("group", f"nothing is known of the backend {name!r}", "gloo or nccl"))
