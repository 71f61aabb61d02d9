"""SV72: what PyTorch's pipeline runtime needs from torch 2.15 on, where sends and reductions are waited for.

It refuses a file with communication that lacks a wait (``_validate_send_waits``, ``_prepare_schedule_with_comms``).
"""

from __future__ import annotations

from collections.abc import Iterator

from schedverify.core.op import Kind, Op
from schedverify.core.result import Violation
from schedverify.verifier.rules.base import Case, rule, violation_at
from schedverify.verifier.rules.torch_runtime import check_lowered, without_cell

_SEND_OF = {Kind.WAIT_SEND_F: Kind.SEND_F, Kind.WAIT_SEND_B: Kind.SEND_B}
_WAIT_OF = {send: wait for wait, send in _SEND_OF.items()}
_Placed = tuple[int, Op]
"""A position in a rank's order and an operation there."""


@rule("SV721", "one wait for each send")
def each_send_waited_for(case: Case) -> Iterator[Violation]:
    """Each send stands once on its rank and has exactly one WAIT_SEND there, behind it.

    What it checks

    Where communication stands in the schedule: for each stage, micro-batch and direction a rank has one send and then
    one wait, or neither. A schedule of compute operations alone gets its waits from PyTorch when it is loaded.

    Why it matters

    From 2.15 on PyTorch's runtime lets go of a send, and of the tensors that it holds, at its wait only. It refuses a
    file in which one is missing, stands twice or comes before its send (`_validate_send_waits`).

    Example

    `0F0 0SEND_F0 0RECV_B0 0B0` has no `0WAIT_SEND_F0`.

    Formally

    If any operation but F, B, I and W stands in the schedule: for every rank r, stage s, micro-batch m and direction,
    what stands of SEND and WAIT_SEND of s and m in the order of r is nothing, or a SEND and behind it a WAIT_SEND.
    """
    check_lowered(case, "PyTorch adds the waits when it is loaded")
    for rank in range(case.schedule.ranks):
        waiting: dict[tuple[Kind, int, int | None], _Placed | None] = {}  # None where it has been waited for
        for position, op in _placed(case, rank):
            if op.kind in _WAIT_OF:
                key = (op.kind, op.stage, op.microbatch)
                if key in waiting:
                    yield violation_at("SV721", rank, position, str(op), "a send of this tensor stands before it")
                else:
                    waiting[key] = position, op
            elif op.kind in _SEND_OF:
                key = (_SEND_OF[op.kind], op.stage, op.microbatch)
                if waiting.get(key) is None:
                    text = "its send is waited for before it" if key in waiting else "no send of it stands before it"
                    yield violation_at("SV721", rank, position, str(op), text)
                else:
                    waiting[key] = None
        for placed in filter(None, waiting.values()):
            position, op = placed
            wait = Op(_WAIT_OF[op.kind], op.stage, op.microbatch)
            yield violation_at("SV721", rank, position, str(op), f"no {wait} follows", str(wait))


@rule("SV722", "one reduction pending")
def one_reduction_pending(case: Case) -> Iterator[Violation]:
    """Each REDUCE_GRAD has one WAIT_REDUCE_GRAD of its stage, before the next REDUCE_GRAD of the rank.

    What it checks

    Where communication stands in the schedule, reductions and their waits alternate on each rank, and each wait is of
    the stage of the reduction before it.

    Why it matters

    From 2.15 on `REDUCE_GRAD` begins a reduction and `WAIT_REDUCE_GRAD` divides the gradients once it has ended. The
    runtime keeps at most one pending on a rank, and refuses a file in which a second one begins before or a wait is
    missing (`_prepare_schedule_with_comms`).

    Example

    `0REDUCE_GRAD 1REDUCE_GRAD 0WAIT_REDUCE_GRAD 1WAIT_REDUCE_GRAD` has two pending at position 1.

    Formally

    If any operation but F, B, I and W stands in the schedule: for every rank r, what stands of REDUCE_GRAD and
    WAIT_REDUCE_GRAD in the order of r has the form (REDUCE_GRAD of s, WAIT_REDUCE_GRAD of s)*, s any stage each time.
    """
    check_lowered(case, "PyTorch adds reductions and their waits when it is loaded")
    for rank in range(case.schedule.ranks):
        pending: _Placed | None = None
        for position, op in _placed(case, rank):
            if op.kind is Kind.REDUCE_GRAD:
                if pending is not None:
                    text = f"{pending[1]} at position {pending[0]} is not waited for before it"
                    yield violation_at("SV722", rank, position, str(op), text)
                pending = position, op
            elif op.kind is Kind.WAIT_REDUCE_GRAD:
                if pending is None:
                    yield violation_at("SV722", rank, position, str(op), "no reduction is pending")
                elif pending[1].stage != op.stage:
                    yield violation_at("SV722", rank, position, str(op), f"{pending[1]} is the one that is pending")
                pending = None
        if pending is not None:
            position, op = pending
            wait = Op(Kind.WAIT_REDUCE_GRAD, op.stage)
            yield violation_at("SV722", rank, position, str(op), f"no {wait} follows", str(wait))


@rule("SV723", "steps that PyTorch's CSV can hold from 2.15 on")
def written_as_csv_with_waits(case: Case) -> Iterator[Violation]:
    """No step is a group of communications, and no send, receive or wait names its peer.

    What it checks

    Communications stand one by one and without a peer. Waits are admitted: 2.15 has cells for them.

    Why it matters

    A cell of PyTorch's CSV is one action; its peer is the stage before or behind (`_Action.from_str`).

    Example

    The group `[0SEND_F0;0RECV_B0]` has no cell; `0SEND_F0` and `0RECV_B0` have one each.

    Formally

    No step holds more than one operation but an overlapped one, and no operation names a peer.
    """
    yield from without_cell("SV723", case, waits=True)


def _placed(case: Case, rank: int) -> Iterator[_Placed]:
    """Yield the operations of a rank with their positions."""
    for position, step in enumerate(case.schedule.steps(rank)):
        for op in step.ops:
            yield position, op
