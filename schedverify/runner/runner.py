"""The runner: executes a verified plan with torch.distributed, and nothing else."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch.distributed as dist

from schedverify.core.problem import Problem
from schedverify.core.result import Plan
from schedverify.core.trace import BoundaryTransfer, StepSpan
from schedverify.runner.agreement import agree_on_plan, make_on_every_rank
from schedverify.runner.backends import backend_of, gloo_beside
from schedverify.runner.compute.batches import Tensors, feed_of
from schedverify.runner.compute.gradients import begin_average, scale, set_aside, sum_shared, weights_of, weights_shared
from schedverify.runner.compute.losses import EMPTY_MEAN
from schedverify.runner.compute.stages import Stage
from schedverify.runner.control.failure_notices import failure_notices_of
from schedverify.runner.control.loss_totals import LossTotals
from schedverify.runner.execution import Execution
from schedverify.runner.failures import RunError
from schedverify.runner.p2p.boundaries import Boundaries, Hook
from schedverify.runner.p2p.messages import transfer_objection
from schedverify.runner.p2p.transport import Transport
from schedverify.runner.p2p.waiting import DEFAULT_TIMEOUT
from schedverify.runner.program import Stages, device_of, modules_of, program_of

log = logging.getLogger("schedverify")
Returned = TypeVar("Returned")


@dataclass(frozen=True)
class StepResult:
    """The results of one step on this rank.

    Attributes
    ----------
    loss
        The rank's share of the loss of the whole batch, a scalar; None where it holds no last stage. The shares of a
        pipeline's ranks add up to it; with a data-parallel group the mean of these sums over its pipelines is it.
    outputs
        In inference, the output tensors by last stage (of all copies) and micro-batch.
    ran
        What ran and when, in nanoseconds, in the order of the positions.
    peak_in_flight
        The most pairs of stage and micro-batch that were in flight at once, counted while running.
    crossed
        All transfers that left or reached a stage of this rank.
    losses
        By last stage (of all copies) and micro-batch, the scalar that the loss function returned: the mean, or the sum
        of a pair.
    """

    loss: Any = None
    outputs: Mapping[tuple[int, int], Tensors] = field(default_factory=dict)
    ran: tuple[StepSpan, ...] = ()
    peak_in_flight: int = 0
    crossed: tuple[BoundaryTransfer, ...] = ()
    losses: Mapping[tuple[int, int], Any] = field(default_factory=dict)


class Runner:
    """Runs a plan's schedule on the ranks of a process group; every rank makes one, at the same time.

    The plan is verified on every rank, and all ranks agree on it before any tensor moves.

    Parameters
    ----------
    plan
        A plan, or the file of one.
    stages
        The modules of this rank: by stage (of all copies: copy ``k`` of the model has the stages ``k·S … k·S+S-1``), or
        a list in the order of the rank's stages. A module takes the tensors of the stages that feed it, in their order,
        and returns a tensor or a tuple of tensors. Copies, and tied stages, begin with equal weights. Or a function
        that returns them for the admitted plan.
    loss
        ``loss(output, target)``, needed where a last stage stands: the mean over a micro-batch, or a pair, in all
        steps and on all ranks the same. Of a pair (sum, count) the first is a scalar and the second the number that
        counts (of tokens, say; 0 or more). The loss of the whole batch is the mean of means, each counting for its
        rows or as ``step`` is told; or the sum of all sums over the sum of all counts, 0 where nothing counts. A
        mapping by stage of one copy where last stages differ: their losses add up.
    group
        The process group of the pipeline; rank ``r`` of it is rank ``r`` of the plan. All processes by default.
    unverified
        Whether a plan runs that was not proved.
    timeout
        Seconds that a rank waits for another.
    hooks
        Called with each :class:`~schedverify.runner.Crossing` of a boundary; they raise to stop the run.
    forbid_nan
        Whether a NaN in what crosses a boundary stops the run.
    checksums
        Whether what reaches a stage is compared with a checksum of what left the other; the same on every rank.
    optimizer
        Called at the end of each step of training, when the gradients are whole: ``optimizer.step``, say.
    data_parallel
        A process group of the ranks with the same stages in other pipelines, each with its part of the batch: at a
        stage's ``REDUCE_GRAD`` where the plan has it, else at the end of the step, gradients become those of the loss
        of all parts together, however many rows each has, or whatever counts in it.
    device
        The device of buffers; that of the first weight by default.

    Raises
    ------
    RefusedError
        On every rank, if any rank refuses the plan; says why.
    TimedOutError
        If a rank does not come.
    InputError
        If the modules are not those of this rank's stages; the others are refused with it.
    """

    def __init__(  # noqa: PLR0913 - each is a keyword of its own
        self,
        plan: Plan | str | Path,
        stages: Stages | Callable[[Plan], Stages],
        loss: Any = None,
        *,
        group: Any = None,
        unverified: bool = False,
        timeout: float = DEFAULT_TIMEOUT,
        hooks: Sequence[Hook] = (),
        forbid_nan: bool = False,
        checksums: bool = False,
        optimizer: Callable[[], Any] | None = None,
        data_parallel: Any = None,
        device: Any = None,
    ) -> None:
        self._group = dist.group.WORLD if group is None else group
        self._timeout, self._loss, self._optimizer = timeout, loss, optimizer
        self._data_parallel, self._replicas = data_parallel, None
        self.rank = dist.get_rank(self._group)
        self.plan, self._tagged, self._control = _admitted(plan, self._group, unverified, timeout)
        self.program, problem = program_of(self.plan, self.rank), self.plan.problem
        options = "checksums" if checksums else ""
        self.modules = make_on_every_rank(
            lambda: self._made(stages), options, lambda made: weights_shared(problem, made), self._control, timeout
        )
        self._totals = LossTotals(problem, self._control, self._replicas, timeout)
        self._notices = failure_notices_of(self._group, timeout)
        device, tagged = device_of(self.modules) if device is None else device, self._tagged
        self._boundaries = Boundaries(
            problem, self.rank, known=not tagged, hooks=hooks, forbid_nan=forbid_nan, sealed=checksums
        )
        transport = Transport(
            self._boundaries,
            problem,
            self.rank,
            self._group,
            tagged=tagged,
            timeout=timeout,
            device=device,
            awaited=self.program.awaited_sends,
        )
        training, recompute, feeders = problem.form != "inference", problem.recompute, problem.predecessors
        made = {
            number: Stage(number, module, recompute=recompute[number], training=training, is_first=not feeders[number])
            for number, module in self.modules.items()
        }
        self.execution = Execution(self.program, made, transport, reduce=self._reduce, boundaries=self._boundaries)
        """Runs the program of this rank; a test plants faults with its ``intercept``."""

    def _made(self, stages: Stages | Callable[[Plan], Stages]) -> dict[int, Any]:
        """Return the modules, once the other ranks of the data-parallel group have their own, with as many weights."""
        make = partial(modules_of, stages, self.plan, self.program)
        if self._data_parallel is None:
            return make()
        is_gloo = backend_of(self._data_parallel).name == "gloo"
        self._replicas = self._data_parallel if is_gloo else gloo_beside(self._data_parallel, self._timeout)
        among = "the data-parallel group"
        made: dict[int, Any] = make_on_every_rank(make, "", weights_of, self._replicas, self._timeout, among=among)
        return made

    @property
    def control(self) -> Any:
        """A gloo group of the pipeline's ranks, for control messages."""
        return self._control

    @property
    def problem(self) -> Problem:
        """The plan's problem."""
        return self.plan.problem

    def step(self, batch: Any = None, target: Any = None, *, weights: Any = None) -> StepResult:
        """Run the plan once.

        Gradients are added to the weights' ``grad`` and are those of the loss of the whole batch, as in one process;
        then the optimizer's hook is called. Where gradients stood before, a step holds twice their memory until it
        ends; where it fails they stand as before.

        Parameters
        ----------
        batch
            The inputs of a first stage that stands here, the whole batch: a tensor or a tuple of tensors, cut into
            micro-batches along the first dimension, or a list of the micro-batches; a mapping by stage of one copy
            where first stages differ. Ranks without a first stage need none.
        target
            Likewise the targets of a last stage.
        weights
            What the mean of each micro-batch counts for, a number for each, its rows by default: the number of its
            tokens, say. The loss is their weighted mean; a micro-batch of weight 0 is not handed to the loss. A mapping
            by stage of one copy where last stages differ. Ranks without a last stage need none.

        Raises
        ------
        RunError
            If the step cannot go on; names rank, position and operation, and why others ended. With gloo the process
            group is closed then: no rank waits for another any more.
        InputError
            If the batch or target that this rank needs is missing, or cannot be cut.
        """
        return self._reporting(lambda: self._step(batch, target, weights))

    def _reporting(self, act: Callable[[], Returned]) -> Returned:
        """Do something with the other ranks; where it fails, send them a notice and close the connections to them."""
        try:
            return act()
        except Exception as error:
            groups = [group for group in (self._group, self._data_parallel) if group is not None]
            failure = self._notices.report(error, [group for group in groups if dist.get_backend(group) == "gloo"])
            if failure is error:
                raise
            raise failure from error

    def _step(self, batch: Any, target: Any, weights: Any) -> StepResult:
        feed, loss = feed_of(self.problem, self.rank, batch, target, self._loss, weights), None
        if self.problem.form == "inference":
            ran = self.execution.run(feed)
        else:
            feed = self._totals.weigh(feed)
            with set_aside(self.modules.values()):
                ran = self.execution.run(feed)
                sum_shared(self.problem, self.rank, self.modules, self._group, self._timeout, self._tagged)
                for number in () if self.program.reduces else sorted(self.modules):
                    self._reduce(number)()
                loss, factor = self._totals.settle(feed, self.execution.losses)
                if factor is not None:
                    scale(self.modules.values(), factor)
            self._update()
        done = self.execution
        losses = {place: each.value for place, each in done.losses.items()}
        crossed = tuple(self._boundaries.log)
        return StepResult(loss, done.outputs, tuple(ran), done.peak_in_flight, crossed, losses)

    def _update(self) -> None:
        try:
            if self._optimizer is not None:
                self._optimizer()
        except Exception as error:
            raise RunError(f"rank {self.rank}, the optimizer's hook: {type(error).__name__}: {error}") from error

    def whole_loss(self, result: StepResult) -> float:
        """Return the loss of the whole batch, that of all pipelines of the data-parallel group; every rank calls it.

        Where it is NaN, the log tells the micro-batches whose loss is.

        Raises
        ------
        TimedOutError
            If a rank does not call it in time, or is gone; says why others ended, as :meth:`step` does.
        RunError
            If a rank sends what is no number.
        """
        share = 0.0 if result.loss is None else float(result.loss)
        if math.isnan(share):
            told = sorted({m for (_, m), loss in result.losses.items() if bool(loss.isnan())})
            log.warning(
                "rank %d: the loss of micro-batch %s is NaN (%s)", self.rank, ", ".join(map(str, told)), EMPTY_MEAN
            )
        return self._reporting(lambda: self._totals.whole(share))

    def relearn(self) -> None:
        """Forget the shapes of messages; call it on every rank before a step whose batch has another shape."""
        self._boundaries.forget()

    def _reduce(self, number: int) -> Callable[[], None]:
        """Begin to average a stage's gradients over the data-parallel group, and return what ends that."""
        if self._data_parallel is None:
            return lambda: None
        place = f"rank {self.rank}, stage {number}"
        return begin_average(self.modules[number].parameters(), self._data_parallel, place, self._timeout)


def _admitted(plan: Plan | str | Path, group: Any, unverified: bool, timeout: float) -> tuple[Plan, bool, Any]:
    """Return the plan, whether the backend matches messages by tags, and a gloo group of the ranks."""
    backend = backend_of(group)
    control = group if backend.name == "gloo" else gloo_beside(group, timeout)

    def objection(given: Plan) -> str:
        return transfer_objection(given.problem, tagged=backend.tagged)

    admitted = agree_on_plan(plan, backend, control, unverified=unverified, timeout=timeout, objection=objection)
    return admitted, backend.tagged, control
