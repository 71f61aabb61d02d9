"""What a schedule class of torch runs, whether it runs an order or a loop written by hand."""

from __future__ import annotations

from typing import Any

from schedverify.core.errors import Fault, InputError
from schedverify.core.schedule import Schedule
from schedverify.torch_bridge.importing import torch_schedule
from schedverify.torch_bridge.stand_ins import live_schedule, torch_class, torch_loop
from schedverify.torch_bridge.torch_internals import is_single_class


def torch_order(
    name: str,
    *,
    ranks: int,
    microbatches: int,
    virtual: int = 1,
    lowered: bool = False,
    published: bool = False,
    defer_receives: bool = False,
    max_outstanding_sends: int | None = None,
) -> Schedule:
    """Return what a schedule class of ``torch.distributed.pipelining`` runs on a shape; no process group is needed.

    Parameters
    ----------
    name, ranks, microbatches, virtual
        As in :func:`torch_schedule`.
    lowered
        Whether communication stands in it, and what belongs to it; else it holds F, B, I and W alone.
    published
        Whether of a class that runs a loop written by hand (``GPipe``, ``1F1B``, ``ForwardOnly``) the order is meant
        that it publishes, as :func:`torch_schedule` has it, and not what :func:`torch_loop` sees it run.
    defer_receives
        Whether torch's lowering defers receives; of an order that torch lowers.
    max_outstanding_sends
        Torch's budget of sends of a rank that are not yet waited for, which it has since 2.15; of an order that torch
        lowers.

    Raises
    ------
    InputError
        If there is no such class, it refuses the shape (with torch's own words), it publishes no order, or it has no
        use for what is asked of its lowering.
    UnsupportedError
        If torch is not installed, cannot be used, or has no such budget.

    Examples
    --------
    >>> print(torch_order("1F1B", ranks=2, microbatches=2))
    0F0 0F1 0B0 0B1
    1F0 1B0 1F1 1B1
    >>> print(torch_order("1F1B", ranks=2, microbatches=2, published=True))
    0F0 0F1 0B0 0B1
    1F1 1B0 1F2 1B1
    """
    kind = torch_class(name)
    asked: dict[str, Any] = {"defer_receives": defer_receives} if defer_receives else {}
    asked |= {} if max_outstanding_sends is None else {"max_outstanding_sends": max_outstanding_sends}
    by_hand = is_single_class(kind) and not published
    for option in asked:
        _check_lowering(option, kind.__name__, lowered=lowered, by_hand=by_hand)
    if by_hand:
        live_schedule(name, ranks=ranks, microbatches=microbatches, virtual=virtual)  # refuses what the loop lacks
        made = torch_loop(name, ranks=ranks, microbatches=microbatches)
        return made if lowered else made.compute_only()
    return torch_schedule(name, ranks=ranks, microbatches=microbatches, virtual=virtual, lowered=lowered, **asked)


def _check_lowering(option: str, kind: str, *, lowered: bool, by_hand: bool) -> None:
    """Refuse an option of torch's lowering where torch lowers nothing, or what it lowers is not asked for."""
    if by_hand:
        message = f"{kind} runs a loop written by hand, which torch does not lower"
        raise InputError(Fault(option, message, "leave it away; published has the order that it publishes"))
    if not lowered:
        raise InputError(Fault(option, "it is of the order with communication", "ask for lowered, too"))
