"""A verified plan in PyTorch's own pipeline runtime: judged on every rank, agreed on by all, and loaded as it is."""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any

from schedverify.disciplines import Discipline
from schedverify.errors import ScheduleError, UnsupportedError
from schedverify.exporting import for_torch
from schedverify.formats import load, save
from schedverify.op import Kind, Op
from schedverify.problem import Problem
from schedverify.profiles import PROFILES
from schedverify.ran import Ran
from schedverify.result import Plan
from schedverify.schedule import Schedule
from schedverify.torch_bridge.versions import require_torch
from schedverify.torch_bridge.watching import Watch, watched


class LoadedPlan:
    """A plan that PyTorch's runtime has loaded.

    Attributes
    ----------
    runtime
        PyTorch's schedule object.
    schedule
        The order that it holds: the plan's, with communication and a ``REDUCE_GRAD`` for each stage.
    trace
        What this rank ran in the last step, and when.
    """

    def __init__(self, runtime: Any, schedule: Schedule, problem: Problem, rank: int, timeout: float) -> None:
        self.runtime, self.schedule = runtime, schedule
        self.trace: tuple[Ran, ...] = ()
        self._problem, self._rank, self._timeout = problem, rank, timeout

    def step(self, *args: Any, target: Any = None, losses: list[Any] | None = None, **kwargs: Any) -> Any:
        """Run one step as ``step`` of PyTorch's schedules does: the whole batch, cut by PyTorch into micro-batches.

        Raises
        ------
        TimedOutError
            If a wait does not end in time; names rank, position, operation and the rank that it waits for.
        """
        watch = Watch(self._rank)
        try:
            with watched(watch, self._timeout):
                return self.runtime.step(*args, target=target, losses=losses, **kwargs)
        except RuntimeError as error:
            if watch.current is None or not _is_wait(error):
                raise
            from schedverify.runner import TimedOutError

            raise TimedOutError(f"{self._place(watch)}: {str(error).strip().splitlines()[0]}") from error
        finally:
            self.trace = tuple(watch.ran)

    def _place(self, watch: Watch) -> str:
        """Return who waits, where, and for whom."""
        place = f"rank {self._rank}, position {watch.position} ({watch.current})"
        peers = sorted({peer for op in self._ops(watch.position) if (peer := self._source(op)) is not None})
        return f"{place} waits for rank {', '.join(map(str, peers))}" if peers else place

    def _ops(self, position: int) -> tuple[Op, ...]:
        steps = list(self.schedule.steps(self._rank))
        return steps[position].ops if position < len(steps) else ()

    def _source(self, op: Op) -> int | None:
        """Return the rank whose message an operation waits for, if it is another one."""
        before = {Kind.F: -1, Kind.B: 1, Kind.I: 1}.get(op.kind)
        other = op.stage if before is None else op.stage + before
        if not 0 <= other < self._problem.stages or self._problem.homes[other] == self._rank:
            return None
        return self._problem.homes[other]


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
    ``REDUCE_GRAD`` behind the last backward of each stage where it has none.

    Parameters
    ----------
    plan
        A plan, or the file of one.
    stages
        This rank's ``PipelineStage`` objects.
    loss
        ``loss(output, target)`` of a micro-batch.
    timeout
        Seconds that a rank waits for another, here and in each wait of a step. It becomes the process group's own.
    scale_grads
        Whether gradients are divided by the number of micro-batches, as a loss that is a mean needs it.
    runtime
        Further keywords of PyTorch's schedule class.

    Raises
    ------
    RefusedError
        On every rank, with the reasons of all: a plan for another number of ranks, one that the verifier or the profile
        ``torch`` objects to, another plan on some rank, stages that are not the rank's, a discipline milder than what
        the backend is.
    TimedOutError
        If a rank does not come.
    UnsupportedError
        If torch, or the backend, is another than what this is tested with.
    """
    torch = require_torch()
    from schedverify.runner.admitting import admit
    from schedverify.runner.backends import Backend

    distributed = torch.distributed
    group = stages[0].group if stages and stages[0].group is not None else distributed.group.WORLD
    name, rank = str(distributed.get_backend(group)), distributed.get_rank(group)
    backend = Backend(f"PyTorch's runtime over {name}", _discipline(name), tagged=False)
    distributed.distributed_c10d._set_pg_timeout(timedelta(seconds=timeout), group)
    admitted = admit(
        plan,
        backend,
        _control(distributed, group, name, timeout),
        unverified=False,
        timeout=timeout,
        objection=lambda given: _objection(given, stages, rank),
    )
    if admitted.lowered is None:
        raise ScheduleError("the plan holds no schedule with communication")
    leaving = for_torch(admitted.lowered.schedule, admitted.problem)
    schedules = importlib.import_module("torch.distributed.pipelining.schedules")
    made = schedules._PipelineScheduleRuntime(
        list(stages), admitted.problem.microbatches, loss_fn=loss, scale_grads=scale_grads, **runtime
    )
    _load(made, leaving)
    return LoadedPlan(made, leaving, admitted.problem, rank, timeout)


def _load(made: Any, leaving: Schedule) -> None:
    """Load an order and see that the runtime holds it and no other."""
    with tempfile.TemporaryDirectory() as folder:
        given, dumped = Path(folder) / "given.csv", Path(folder) / "dumped.csv"
        save(leaving, given, form="torch-comms-csv")
        made._load_csv(str(given), "compute_comms")
        made._dump_csv(str(dumped), "compute_comms")
        if load(dumped) != leaving:
            raise ScheduleError("PyTorch's runtime holds another order than it was given; please report this")


def _objection(plan: Plan, stages: Sequence[Any], rank: int) -> str:
    """Return what is against a plan in PyTorch's runtime on this rank; empty where nothing is."""
    problem = plan.problem
    wanted, found = list(problem.stages_of[rank]), sorted(stage.stage_index for stage in stages)
    if wanted != found:
        return f"the plan has the stages {wanted} here, the stages given are {found}"
    counts = {stage.num_stages for stage in stages} - {problem.stages}
    if counts:
        return f"the plan has {problem.stages} stages, a stage given says {counts.pop()}"
    try:
        for_torch(plan.lowered.schedule if plan.lowered else plan.schedule or Schedule([[]]), problem)
    except ScheduleError as error:
        return str(error).splitlines()[0]
    return ""


def _discipline(backend: str) -> Discipline:
    disciplines = PROFILES["torch"].disciplines
    if backend not in disciplines:
        raise UnsupportedError(f"nothing is known of the backend {backend!r} below PyTorch's runtime: gloo or nccl")
    return disciplines[backend]


def _control(distributed: Any, group: Any, name: str, timeout: float) -> Any:
    """Return a group over which ranks can talk before the run: gloo's, or one beside the pipeline's."""
    if name == "gloo":
        return group
    ranks = distributed.get_process_group_ranks(group)
    return distributed.new_group(ranks, timedelta(seconds=timeout), "gloo", use_local_synchronization=True)


def _is_wait(error: RuntimeError) -> bool:
    """Whether an error comes from a transfer that did not end, or whose peer is gone."""
    text = str(error)
    return any(sign in text for sign in ("Timed out", "timed out", "Connection closed", "Connection reset", "gloo"))
