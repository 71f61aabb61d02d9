"""A verified plan in PyTorch's own pipeline runtime: verified on every rank, agreed on by all, and loaded as it is."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, NamedTuple

from schedverify.core.discipline import Discipline
from schedverify.core.errors import ScheduleError, UnsupportedError
from schedverify.core.result import Plan
from schedverify.core.schedule import Schedule
from schedverify.core.trace import StepSpan
from schedverify.formats import load, save
from schedverify.torch_bridge import torch_internals
from schedverify.torch_bridge.loaded_orders import order_to_load
from schedverify.torch_bridge.lowering_options import refuse_keywords
from schedverify.torch_bridge.versions import require_torch
from schedverify.torch_bridge.wrapped_stages import objection_to_wrapped


class _RankGroup(NamedTuple):
    """A rank and its way to the others."""

    rank: int
    control: Any
    """A gloo group of the pipeline's ranks, for control messages."""
    timeout: float
    """Seconds that the rank waits for another."""
    limited: bool
    """Whether each wait within a step has that timeout, too."""


class LoadedPlan:
    """A plan that PyTorch's runtime has loaded.

    Attributes
    ----------
    runtime
        PyTorch's schedule object.
    schedule
        The order that it holds: the plan's, with communication and a ``REDUCE_GRAD`` for each stage; since torch 2.15
        with a wait for each send and each reduction.
    trace
        What this rank ran in the last step, and when.
    """

    def __init__(self, runtime: Any, schedule: Schedule, rank_group: _RankGroup) -> None:
        self.runtime, self.schedule = runtime, schedule
        self.trace: tuple[StepSpan, ...] = ()
        self._rank_group = rank_group

    def step(self, *args: Any, target: Any = None, losses: list[Any] | None = None, **kwargs: Any) -> Any:
        """Run one step as ``step`` of PyTorch's schedules does: the whole batch, cut by PyTorch into micro-batches.

        In the first one PyTorch has the ranks tell each other shapes, without a limit; so they wait for each other
        before it, within one.

        Raises
        ------
        TimedOutError
            If a wait does not end in time, or its peer is gone; names rank, position, operation and peer. With NCCL
            only where a rank does not come to the first step.
        """
        from schedverify.runner.control.exchange import exchange
        from schedverify.torch_bridge.watching import Watch

        rank, control, timeout, limited = self._rank_group
        if not torch_internals.has_exchanged_shapes(self.runtime):
            exchange("", control, timeout, part="before the first step")
        watch = Watch(rank, timeout if limited else None)
        try:
            with watch.watching():
                return self.runtime.step(*args, target=target, losses=losses, **kwargs)
        finally:
            self.trace = tuple(watch.ran)


def load_verified(
    plan: Plan | str | Path,
    stages: Sequence[Any],
    loss: Any,
    *,
    timeout: float = 60.0,
    scale_grads: bool = True,
    **runtime: Any,
) -> LoadedPlan:
    """Load a plan into PyTorch's pipeline runtime, once every rank has passed it and all have the same.

    Each rank of the stages' process group calls it. What is loaded is the plan's order with communication, with a
    ``REDUCE_GRAD`` behind the last backward of each stage where it has none. Since torch 2.15 it has a wait for each
    send and each reduction, too: the plan's, or where it has none as late as the problem's limits allow.

    Parameters
    ----------
    plan
        A plan, or the file of one.
    stages
        This rank's ``PipelineStage`` objects.
    loss
        ``loss(output, target)`` of a micro-batch.
    timeout
        Seconds that a rank waits for another, here and in each wait of a step. With NCCL it becomes the process group's
        own, and NCCL's watchdog ends what takes longer.
    scale_grads
        Whether gradients are divided by the number of micro-batches, as a loss that is a mean needs it.
    runtime
        Further keywords of PyTorch's schedule class, but none of its lowering: the plan is lowered.

    Raises
    ------
    InputError
        If a keyword is one of PyTorch's lowering.
    RefusedError
        On every rank, with the reasons of all: a plan for another number of ranks, one that the verifier or the profile
        ``torch`` objects to, another plan on some rank, stages that are not the rank's, stages wrapped for their
        replicas whose gradients the plan would make wrong there, a discipline milder than what the backend is.
    TimedOutError
        If a rank does not come.
    UnsupportedError
        If torch lacks what is used of it, or nothing is known of the backend.
    """
    torch = require_torch("runtime")
    refuse_keywords(runtime)
    from schedverify.runner.agreement import agree_on_plan
    from schedverify.runner.backends import Backend, gloo_beside

    distributed = torch.distributed
    group = stages[0].group if stages and stages[0].group is not None else distributed.group.WORLD
    name, rank = str(distributed.get_backend(group)), distributed.get_rank(group)
    discipline = _discipline(name, group, stages)
    backend = Backend(f"PyTorch's runtime over {name}", discipline, tagged=False)
    control = group
    if name != "gloo":  # waits of the pipeline's own group get the timeout
        torch_internals.limit_waits(group, timedelta(seconds=timeout))
        control = gloo_beside(group, timeout)
    exported: list[Schedule] = []

    def objection(given: Plan) -> str:
        return _objection(given, stages, rank, discipline, exported)

    admitted = agree_on_plan(plan, backend, control, unverified=False, timeout=timeout, objection=objection)
    count = admitted.problem.microbatches
    made = torch_internals.runtime_class()(list(stages), count, loss_fn=loss, scale_grads=scale_grads, **runtime)
    _load(made, exported[0])
    return LoadedPlan(made, exported[0], _RankGroup(rank, control, timeout, limited=name == "gloo"))


def _load(made: Any, exported: Schedule) -> None:
    """Load an order and see that the runtime holds it and no other."""
    with tempfile.TemporaryDirectory() as folder:
        given, dumped = Path(folder) / "given.csv", Path(folder) / "dumped.csv"
        save(exported, given)
        torch_internals.load_order(made, str(given))
        torch_internals.dump_order(made, str(dumped))
        if load(dumped) != exported:
            raise ScheduleError("PyTorch's runtime holds another order than it was given; please report this")


def _discipline(backend: str, group: Any, stages: Sequence[Any]) -> Discipline:
    """Return what the sends and receives of PyTorch's runtime amount to over a backend.

    gloo keeps the messages of each directed pair of ranks in order. NCCL has a communicator for each pair; one for all
    where the process group is bound to a device; and one for each directed pair where PyTorch is told so
    (``torch.distributed.config.pipeline_per_edge_p2p``).
    """
    known = {"gloo": Discipline.EDGE, "nccl": Discipline.PAIR}
    if backend not in known:
        raise UnsupportedError(f"nothing is known of the backend {backend!r} below PyTorch's runtime: gloo or nccl")
    if stages and all(torch_internals.has_edge_communicators(stage) for stage in stages):
        return Discipline.EDGE
    if backend == "nccl" and torch_internals.is_bound(group):
        return Discipline.RANK
    return known[backend]


def _objection(plan: Plan, stages: Sequence[Any], rank: int, discipline: Discipline, exported: list[Schedule]) -> str:
    """Return why a plan cannot run in PyTorch's runtime on this rank; where it can, nothing, and add what is loaded."""
    problem = plan.problem
    wanted, found = list(problem.stages_of[rank]), sorted(stage.stage_index for stage in stages)
    if wanted != found:
        text = f"the plan has the stages {wanted} here, the stages given are {found}"
        return f"{text}; problem.stages_of of the plan tells by rank which to make"
    counts = {stage.num_stages for stage in stages} - {problem.stages}
    if counts:
        return f"the plan has {problem.stages} stages, a stage given says {counts.pop()}"
    if plan.lowered is None:
        return "the plan holds no schedule with communication"
    try:
        exported.append(order_to_load(plan.lowered.schedule, problem, discipline))
    except ScheduleError as error:
        return str(error).splitlines()[0]
    return objection_to_wrapped({stage.stage_index: stage.submod for stage in stages}, exported[0], rank)
