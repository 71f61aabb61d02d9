"""From torch's schedule objects to schedules and problems."""

from __future__ import annotations

from typing import Any, Unpack

from schedverify.core.errors import Fault, InputError
from schedverify.core.op import pack_step
from schedverify.core.problem import Problem
from schedverify.core.schedule import Schedule
from schedverify.torch_bridge.lowering_options import LoweringOptions
from schedverify.torch_bridge.stand_ins import live_schedule, lowered_by_torch, torch_class
from schedverify.torch_bridge.torch_internals import counts_of, is_single, is_single_class
from schedverify.verifier.infer_problem import deduce_problem


def from_torch(live: Any, *, lowered: bool = False) -> Schedule:
    """Return the order that a schedule object of ``torch.distributed.pipelining`` holds, for every rank.

    Every kind of action comes over, ``OVERLAP_F_B`` with its parts; idle steps (``None``) are left out.

    Parameters
    ----------
    live
        An object of a schedule class, or torch's ``_PipelineScheduleRuntime`` with a schedule loaded.
    lowered
        Whether the order with communication is wanted, which the several-stage classes have
        (``pipeline_order_with_comms``), or what torch calls ``pipeline_order``.

    Returns
    -------
    Schedule
        What stands in the object, and nothing else. ``Schedule1F1B`` and ``ScheduleGPipe`` do not run their
        ``pipeline_order``: their loops are written by hand, and :func:`torch_loop` gives what they run. In torch 2.13
        that of ``Schedule1F1B`` is wrong on the last rank of every shape (F0 is missing, and there is one micro-batch
        too many); its loop is right. Both orders end with ``REDUCE_GRAD``, which :meth:`Schedule.compute_only` leaves
        out.

    Raises
    ------
    InputError
        If the object has no such order, or there is an action in it that is none.
    """
    name = "pipeline_order_with_comms" if lowered else "pipeline_order"
    order = getattr(live, name, None)
    if not order:
        raise InputError(Fault(f"{type(live).__name__}.{name}", "there is no order in it", _hint(lowered)))
    return _schedule(order)


def problem_from_torch(live: Any, **keys: Any) -> Problem:
    """Return the problem that a schedule object of torch is for: ranks, stages, placement, micro-batches and form.

    Parameters
    ----------
    live
        As in :func:`from_torch`.
    keys
        Costs and limits, as :meth:`Problem.chain` takes them; 1 tick for each of F, I and W, 2 for B by default.
    """
    order = getattr(live, "pipeline_order", None) or getattr(live, "pipeline_order_with_comms", None)
    stages, microbatches = counts_of(live)
    single = is_single(live)
    owner_rank = range(stages) if single else map(live.stage_index_to_group_rank.get, range(stages))
    shape: dict[str, Any] = {
        "ranks": stages if single else live.pp_group_size,
        "microbatches": microbatches,
        "placement": list(owner_rank),
        "form": deduce_problem(_schedule(order)).form if order else "inference",
    }
    return Problem.chain(**shape | keys)


def torch_schedule(
    name: str,
    *,
    ranks: int,
    microbatches: int,
    virtual: int = 1,
    lowered: bool = False,
    **options: Unpack[LoweringOptions],
) -> Schedule:
    """Return what a schedule class of ``torch.distributed.pipelining`` makes of a shape; no process group is needed.

    Parameters
    ----------
    name
        The class, such as ``ScheduleZBVZeroBubble`` or ``ZBVZeroBubble``.
    ranks, microbatches, virtual
        Ranks of the pipeline, micro-batches of a step, stages a rank.
    lowered
        Whether communication, ``UNSHARD``, ``RESHARD`` and ``REDUCE_GRAD`` stand in it, put there by torch's own
        passes, and since torch 2.15 the waits; else it holds F, B, I and W alone.
    options
        What is asked of torch's lowering (:class:`LoweringOptions`): ``defer_receives``, and since torch 2.15
        ``max_outstanding_sends``, ``max_active_stages``, ``unshard_lookahead`` and ``defer_reductions``.

    Returns
    -------
    Schedule
        Of ``GPipe`` and ``1F1B`` the order that they publish, which is not what their hand-written loops run (see
        :func:`from_torch`): torch's lowering refuses that of ``1F1B``. ``ForwardOnly`` publishes none. What the three
        run is told by :func:`torch_loop`.

    Raises
    ------
    InputError
        If there is no such class, it refuses the shape (with torch's own words), or it publishes no order.
    UnsupportedError
        If torch is not installed, lacks what the bridge uses, or has no such option.

    Examples
    --------
    >>> print(torch_schedule("LoopedBFS", ranks=2, microbatches=2))
    0F0 0F1 0B1 0B0
    1F0 1F1 1B1 1B0
    """
    by_hand = is_single_class(torch_class(name))
    given = {} if by_hand else options
    live = live_schedule(name, ranks=ranks, microbatches=microbatches, virtual=virtual, **given)
    if lowered and by_hand:
        from_torch(live)
        order = live.pipeline_order.items()
        computing = {rank: [action for action in row if action.is_compute_op] for rank, row in order}
        live = lowered_by_torch(computing, ranks=ranks, microbatches=microbatches, **options)
    return from_torch(live, lowered=True) if lowered else from_torch(live).compute_only()


def torch_problem(name: str, *, ranks: int, microbatches: int, virtual: int = 1, **keys: Any) -> Problem:
    """Return the problem that a schedule class of torch is for, with the placement that the class gives its stages.

    Parameters
    ----------
    name, ranks, microbatches, virtual
        As in :func:`torch_schedule`.
    keys
        Costs and limits, as :meth:`Problem.chain` takes them.

    Raises
    ------
    InputError
        If there is no such class, or it refuses the shape.

    Examples
    --------
    >>> torch_problem("ZBVZeroBubble", ranks=2, microbatches=3, virtual=2).owner_rank
    (0, 1, 1, 0)
    """
    live = live_schedule(name, ranks=ranks, microbatches=microbatches, virtual=virtual)
    return problem_from_torch(live, **keys)


def _schedule(order: dict[int, list[Any]]) -> Schedule:
    """Read every action as its text, which is that of a step; a row is what stands under a rank's number."""
    if set(order) != set(range(len(order))):
        raise InputError(Fault("", f"an order for each of {len(order)} ranks", "their keys are 0, 1, and so on"))
    return Schedule(_words(rank, order[rank]) for rank in range(len(order)))


def _words(rank: int, actions: list[Any]) -> list[int]:
    words: list[int] = []
    for position, action in enumerate(action for action in actions if action is not None):
        try:
            words += pack_step(str(action))
        except InputError as error:
            place = f"rank {rank}, position {position}"
            raise InputError(fault._replace(key=place) for fault in error.faults) from None
    return words


def _hint(lowered: bool) -> str:
    if lowered:
        return "classes with one stage a rank have none; torch_loop gives what their loops, written by hand, run"
    return "a runtime that loaded compute_comms has lowered=True alone; of ForwardOnly torch_loop gives what it runs"
